package daemon

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"tokend/internal/envfile"
	"tokend/oauth"
	"tokend/profile"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

func (s *profiles) Register(stream tokendv1grpc.ProfileService_RegisterServer) error {
	req, err := stream.Recv()
	start := req.GetStart()
	if err != nil || start == nil {
		return invalid("message", "start is required")
	}
	endpoint, err := oauth.CheckURL(start.GetUrl())
	if err != nil {
		return invalid("url", err.Error())
	}
	name, err := nameFor(start.GetName(), start.GetUrl())
	if err != nil {
		return err
	}
	if err := store.CheckName(name); err != nil {
		return invalidName("name", err)
	}
	tokenURL := start.GetTokenUrl()
	if tokenURL == "" {
		// Servers of this kind have …/v1/register and …/v1/oauth/token.
		tokenURL = endpoint.ResolveReference(&url.URL{Path: "oauth/token"}).String()
	}
	if _, err := oauth.CheckURL(tokenURL); err != nil {
		return invalid("token_url", err.Error())
	}
	h, err := s.d.opened()
	if err != nil {
		return err
	}
	ctx := stream.Context()
	version, err := s.free(ctx, h, name, start.GetReplace())
	if err != nil {
		return err
	}
	err = stream.Send(&tokendv1.RegisterResponse{Event: &tokendv1.RegisterResponse_UserNeeded_{
		UserNeeded: &tokendv1.RegisterResponse_UserNeeded{Url: start.GetUrl(), Profile: name, TokenUrl: tokenURL}}})
	if err != nil {
		return err
	}
	req, err = stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	user := req.GetUser()
	if user.GetName() == "" || user.GetPassword() == "" {
		return invalid("user", "name and password are required")
	}
	made, err := oauth.RegisterUser(ctx, start.GetUrl(), user.GetName(), oauth.NewSecret(user.GetPassword()), oauth.Transport{})
	var answer *oauth.Error
	switch {
	case err == nil:
	case errors.As(err, &answer) && (answer.Status == http.StatusUnauthorized || answer.Status == http.StatusForbidden):
		return failure(tokendv1.Reason_REASON_CLIENT_REFUSED, answer.Error(), "profile", name,
			"oauth_error", answer.Code, "http_status", strconv.Itoa(answer.Status))
	case errors.As(err, &answer):
		return answerError(name, "", answer, answer.RetryAfter)
	default:
		return err
	}
	text := profile.Format([]envfile.Var{
		{Name: "OAUTH2_TOKEN_URL", Value: tokenURL},
		{Name: "OAUTH2_REGISTRATION_URL", Value: start.GetUrl()},
		// Basic is of key and secret; the server's client_id is for people.
		{Name: "CLIENT_ID", Value: made.Key},
		{Name: "CLIENT_SECRET", Value: made.Secret.Reveal()},
		{Name: "OAUTH2_CLIENT_AUTH", Value: string(oauth.ClientSecretBasic)},
	})
	if made.ID != "" && made.ID != made.Key {
		text = append([]byte("# Registered as client_id "+made.ID+"\n"), text...)
	}
	parsed, err := profile.Parse(text)
	if err == nil {
		_, err = parsed.Profile(nil)
	}
	if err != nil {
		return profileError(name, err)
	}
	if version != "" {
		// What the replaced profile has learnt is of another client.
		if _, err := revoke(ctx, h, name); err != nil {
			return err
		}
	}
	put, err := h.profiles.Put(ctx, name, text, version)
	if err != nil {
		return profileError(name, err)
	}
	h.broker.Forget(name)
	t, err := s.d.trust.answer(name, text)
	if err != nil {
		return storeError(err)
	}
	s.d.log.Info("client registered", "profile", name, "by", caller(ctx))
	return stream.Send(&tokendv1.RegisterResponse{Event: &tokendv1.RegisterResponse_Done_{Done: &tokendv1.RegisterResponse_Done{
		Profile: name, ClientId: made.ID, Version: string(put), Trust: t}}})
}
