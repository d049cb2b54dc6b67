package authserver

// clientCredentialsLocked implements RFC 6749 4.4, with resource indicators by
// RFC 8707.
func (s *Server) clientCredentialsLocked(q grantRequest) (issued, *failure) {
	scope, f := q.client.grantScope(q.form.Get("scope"))
	if f != nil {
		return issued{}, f
	}
	audience, f := audienceOf(q.form)
	if f != nil {
		return issued{}, f
	}
	// RFC 9068 2.2: without a resource owner, the client is the subject.
	g := &grant{client: q.client.ID, subject: q.client.ID, scope: scope, audience: audience}
	t := s.issueLocked(q, g, scope, audience)
	if q.client.RefreshAlways {
		t.refresh = s.issueRefreshLocked(q, g)
	}
	return t, nil
}
