package authserver

const accessTokenType = "urn:ietf:params:oauth:token-type:access_token"

// exchangeLocked implements RFC 8693 for access tokens of this server.
func (s *Server) exchangeLocked(q grantRequest) (issued, *failure) {
	refuse := func(why string) (issued, *failure) {
		return issued{}, &failure{code: "invalid_request", description: why}
	}
	if asked := q.form.Get("requested_token_type"); asked != "" && asked != accessTokenType {
		return refuse("requested_token_type: want an access token")
	}
	if q.form.Get("subject_token_type") != accessTokenType {
		return refuse("subject_token_type: want an access token")
	}
	if q.form.Has("actor_token") != q.form.Has("actor_token_type") {
		return refuse("actor_token and actor_token_type come together")
	}
	subject, err := s.liveLocked(q.form.Get("subject_token"))
	if err != nil {
		return refuse("subject_token: " + err.Error())
	}
	g := &grant{client: q.client.ID, subject: subject.Subject}
	if q.form.Has("actor_token") {
		if q.form.Get("actor_token_type") != accessTokenType {
			return refuse("actor_token_type: want an access token")
		}
		acting, err := s.liveLocked(q.form.Get("actor_token"))
		if err != nil {
			return refuse("actor_token: " + err.Error())
		}
		g.actor = &actor{acting.Subject}
	}
	var f *failure
	if g.audience, f = audienceOf(q.form); f != nil {
		return issued{}, f
	}
	g.scope = subject.Scope
	if asked := q.form.Get("scope"); asked != "" {
		if g.scope, f = narrow(subject.Scope, asked); f != nil {
			return issued{}, f
		}
		if _, f = q.client.grantScope(asked); f != nil {
			return issued{}, f
		}
	}
	t := s.issueLocked(q, g, g.scope, g.audience)
	t.kind = accessTokenType
	return t, nil
}
