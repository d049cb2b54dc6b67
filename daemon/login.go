package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/broker"
	"tokend/login"
	"tokend/oauth"
	"tokend/profile"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

// maxLogins is how many can go on at once: most have a listener.
const maxLogins = 64

// maxPasted is how many redirect URLs can wait to be looked at.
const maxPasted = 8

// errReplaced ends a login when another one of the same profile begins.
var errReplaced = errors.New("another login of this profile has begun")

var errTooManyLogins = fmt.Errorf("more than %d logins go on at a time, and this one has waited longest", maxLogins)

// logins lets one login a profile go on: who starts a second one has lost sight
// of the first.
type logins struct {
	// mu guards running.
	mu      sync.Mutex
	running map[string]*running

	crowd crowd
}

// running is a login that goes on.
type running struct {
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed when it has
}

// begin ends the login of name that goes on, waits for that, because it may
// listen where the new one will, and gives the new one's context and what ends it.
func (l *logins) begin(ctx context.Context, name string) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	mine := &running{cancel, make(chan struct{})}
	l.mu.Lock()
	if l.running == nil {
		l.running = make(map[string]*running)
	}
	other := l.running[name]
	l.running[name] = mine
	l.mu.Unlock()
	if other != nil {
		other.cancel(errReplaced)
		<-other.ended // which is soon: it has been told
	}
	ctx, leave := l.crowd.join(ctx, maxLogins, errTooManyLogins)
	return ctx, func() {
		leave()
		cancel(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.running[name] == mine {
			delete(l.running, name)
		}
		close(mine.ended)
	}
}

func (s *profiles) Login(stream tokendv1grpc.ProfileService_LoginServer) error {
	req, err := stream.Recv()
	if err != nil {
		return invalid("message", "start is required")
	}
	start := req.GetStart()
	if start == nil {
		return invalid("message", "start is required")
	}
	if err := checkLogin(start); err != nil {
		return err
	}
	h, err := s.d.opened()
	if err != nil {
		return err
	}
	name, field := start.GetProfile(), "profile"
	if target := start.GetUrl(); target != "" {
		field = "name"
		if name, err = nameFor(start.GetName(), target); err != nil {
			return err
		}
	}
	if err := store.CheckName(name); err != nil {
		return invalidName(field, err)
	}
	ctx, end := s.logins.begin(stream.Context(), name)
	defer end()
	s.d.log.Info("login begins", "profile", name, "by", caller(ctx))
	person := person(stream)

	var done *tokendv1.LoginResponse_Done
	if start.GetUrl() == "" {
		done, err = s.loginProfile(ctx, h, name, start, person)
	} else {
		done, err = s.loginURL(ctx, h, name, start, person)
	}
	if err != nil {
		s.d.log.Warn("no login", "profile", name, "err", err)
		return s.loginError(ctx, name, err)
	}
	done.Profile = name
	s.d.log.Info("logged in", "profile", name, "renewable", done.Renewable, "by", caller(ctx))
	return stream.Send(&tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_Done_{Done: done}})
}

// checkLogin looks at what a login is asked for.
func checkLogin(start *tokendv1.LoginRequest_Start) error {
	if err := checkScopes(start.GetScopes()); err != nil {
		return err
	}
	if start.GetUrl() == "" {
		for field, given := range map[string]bool{
			"name": start.GetName() != "", "replace": start.GetReplace(), "client_id": start.GetClientId() != "",
			"www_authenticate": start.GetWwwAuthenticate() != "", "redirect_url": start.GetRedirectUrl() != "", "tls_ca": start.GetTlsCa() != "",
		} {
			if given {
				return invalid(field, "is for a url")
			}
		}
	}
	if start.GetClientSecret() != "" && start.GetClientId() == "" {
		return invalid("client_secret", "needs client_id")
	}
	if _, known := tokendv1.LoginRequest_Method_name[int32(start.GetMethod())]; !known {
		return invalid("method", "unknown method")
	}
	return nil
}

// nameFor is the name that a profile for target is to have: the one that is
// asked for, or one made of target's host.
func nameFor(asked, target string) (string, error) {
	u, err := oauth.CheckURL(target)
	if err != nil {
		return "", invalid("url", err.Error())
	}
	if asked != "" {
		return asked, nil
	}
	name := strings.NewReplacer(":", "-", "[", "", "]", "").Replace(strings.ToLower(u.Host))
	return strings.Trim(name, "-."), nil // of [::1]
}

// free returns the version that a profile of that name would replace, or says
// why none can be written.
func (s *profiles) free(ctx context.Context, h house, name string, replace bool) (store.Version, error) {
	version, err := h.profiles.Stat(ctx, name)
	switch {
	case err != nil:
		return "", profileError(name, err)
	case version != "" && !replace:
		return "", failure(tokendv1.Reason_REASON_ALREADY_EXISTS, "it exists already", "profile", name)
	}
	// Before anything is made elsewhere that could not be kept here.
	if err := h.profiles.CheckPut(ctx, name, version); err != nil {
		return "", profileError(name, err)
	}
	if _, err := s.d.trust.answer(name, nil); err != nil {
		return "", storeError(err)
	}
	return version, nil
}

func (s *profiles) loginProfile(ctx context.Context, h house, name string, start *tokendv1.LoginRequest_Start, person login.Person) (*tokendv1.LoginResponse_Done, error) {
	p, err := h.broker.Prepare(ctx, name)
	if errors.Is(err, store.ErrNotExist) {
		return nil, h.noSuchProfile(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	if !p.Profile.Interactive() {
		return nil, &profile.Mistakes{List: []profile.Mistake{{Variable: "OAUTH2_GRANT",
			Message: "this profile's tokens need no login; for one, set it to authorization_code or device_code"}}}
	}
	return s.loginPrepared(ctx, h, p, start, person, nil)
}

// loginPrepared runs the flow that start or the profile names. put, if any,
// stores the profile once that has brought a token.
func (s *profiles) loginPrepared(ctx context.Context, h house, p *broker.Prepared, start *tokendv1.LoginRequest_Start, person login.Person, put func(context.Context) error) (*tokendv1.LoginResponse_Done, error) {
	asked := slices.Clone(p.Profile.Request.Scopes)
	if start.GetUrl() == "" {
		for _, scope := range start.GetScopes() {
			if !slices.Contains(asked, scope) {
				asked = append(asked, scope)
			}
		}
	}
	device := p.Profile.Request.Grant == oauth.GrantDeviceCode
	switch start.GetMethod() {
	case tokendv1.LoginRequest_METHOD_BROWSER:
		device = false
	case tokendv1.LoginRequest_METHOD_DEVICE:
		device = true
	}
	flow := login.Browser
	if device {
		flow = login.Device
	}
	t, err := flow(ctx, p, asked, person)
	if err != nil {
		return nil, flowError{err}
	}
	// From here on the person is not asked again: what they consented to is kept
	// even if they close the terminal now.
	ctx = context.WithoutCancel(ctx)
	var warning string
	if put != nil {
		err = put(ctx)
	}
	if err == nil {
		warning, err = h.broker.Adopt(ctx, p, asked, t)
	}
	if err != nil {
		p.Discard(ctx, t)
		return nil, err
	}
	done := &tokendv1.LoginResponse_Done{
		Scopes:    t.Scopes,
		Renewable: !t.RefreshToken.IsZero(),
		Warning:   strings.Trim(strings.Join(t.Warnings, "; ")+"; "+warning, "; "),
	}
	if !t.ScopesGiven {
		done.Scopes = asked
	}
	for _, scope := range asked {
		// Some servers grant what it stands for and do not name it.
		if scope == "offline_access" && done.Renewable {
			continue
		}
		if !slices.Contains(done.Scopes, scope) {
			done.MissingScopes = append(done.MissingScopes, scope)
		}
	}
	if t.LifetimeGiven {
		done.ExpiresAt = timestamppb.New(time.Now().Add(t.Lifetime))
	}
	return done, nil
}

// loginURL finds an API's authorization server, and makes a profile for it once
// somebody has logged in there.
func (s *profiles) loginURL(ctx context.Context, h house, name string, start *tokendv1.LoginRequest_Start, person login.Person) (*tokendv1.LoginResponse_Done, error) {
	version, err := s.free(ctx, h, name, start.GetReplace())
	if err != nil {
		return nil, err
	}
	vars, err := login.Find(ctx, login.Target{
		URL:          start.GetUrl(),
		Name:         name,
		Scopes:       start.GetScopes(),
		ClientID:     start.GetClientId(),
		ClientSecret: oauth.NewSecret(start.GetClientSecret()),
		Challenge:    start.GetWwwAuthenticate(),
		RedirectURL:  start.GetRedirectUrl(),
		Transport:    oauth.Transport{CA: start.GetTlsCa()},
		Device:       start.GetMethod() == tokendv1.LoginRequest_METHOD_DEVICE,
	}, person)
	if err != nil {
		return nil, flowError{err}
	}
	text := profile.Format(vars)
	t, err := s.d.trust.answer(name, text)
	if err != nil {
		return nil, storeError(err)
	}
	p, err := h.broker.PrepareText(ctx, name, text)
	if err != nil {
		return nil, err
	}
	done, err := s.loginPrepared(ctx, h, p, start, person, func(ctx context.Context) error {
		written, err := h.profiles.Put(ctx, name, text, version)
		if err != nil {
			return err
		}
		s.d.log.Info("profile written", "profile", name, "by", caller(ctx))
		p.Version = written
		return nil
	})
	if err != nil {
		return nil, err
	}
	done.Trust = t
	return done, nil
}

// person is the caller's side of a login, behind its stream.
func person(stream tokendv1grpc.ProfileService_LoginServer) login.Person {
	// What nobody waits for holds nothing up.
	confirmations := make(chan bool, 1)
	tokens := make(chan oauth.Secret, 1)
	redirects := make(chan string, maxPasted)
	// Recv returns once the call has ended, whatever the caller does.
	go func() {
		for {
			req, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				close(confirmations)
				close(tokens)
				close(redirects)
				return
			}
			if err != nil {
				return // the stream's context has ended
			}
			switch m := req.GetMessage().(type) {
			case *tokendv1.LoginRequest_Confirmation_:
				offer(confirmations, m.Confirmation.GetAccepted())
			case *tokendv1.LoginRequest_InitialAccessToken_:
				offer(tokens, oauth.NewSecret(m.InitialAccessToken.GetToken()))
			case *tokendv1.LoginRequest_Redirection_:
				offer(redirects, m.Redirection.GetUrl())
			}
		}
	}()
	return login.Person{
		Tell: func(e login.Event) error { return stream.Send(loginEvent(e)) },
		Confirm: func(ctx context.Context, found login.ServerFound) (bool, error) {
			drain(confirmations)
			if err := stream.Send(loginEvent(found)); err != nil {
				return false, err
			}
			return await(ctx, confirmations)
		},
		InitialAccessToken: func(ctx context.Context, endpoint string) (oauth.Secret, error) {
			drain(tokens)
			err := stream.Send(&tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_InitialAccessTokenNeeded_{
				InitialAccessTokenNeeded: &tokendv1.LoginResponse_InitialAccessTokenNeeded{RegistrationEndpoint: endpoint}}})
			if err != nil {
				return oauth.Secret{}, err
			}
			return await(ctx, tokens)
		},
		Redirects: redirects,
	}
}

// offer hands over what somebody may be waiting for.
func offer[T any](to chan<- T, v T) {
	select {
	case to <- v:
	default:
	}
}

// drain drops an answer that came before its question.
func drain[T any](from <-chan T) {
	select {
	case <-from:
	default:
	}
}

// await waits for what the caller offers; one who has closed their side will not
// offer it any more.
func await[T any](ctx context.Context, from <-chan T) (v T, err error) {
	select {
	case v, more := <-from:
		if !more {
			return v, login.ErrNotConfirmed
		}
		return v, nil
	case <-ctx.Done():
		return v, context.Cause(ctx)
	}
}

func loginEvent(e login.Event) *tokendv1.LoginResponse {
	switch e := e.(type) {
	case login.ServerFound:
		return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_ServerFound_{ServerFound: &tokendv1.LoginResponse_ServerFound{
			Resource: e.Resource, Issuer: e.Issuer, AuthorizationEndpoint: e.AuthorizationEndpoint,
			TokenEndpoint: e.TokenEndpoint, RegistrationEndpoint: e.RegistrationEndpoint,
			Registers: e.Registers, Profile: e.Profile, Scopes: e.Scopes}}}
	case login.OpenURL:
		return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_OpenUrl{OpenUrl: &tokendv1.LoginResponse_OpenURL{
			Url: e.URL, RedirectUrl: e.RedirectURL, ExpiresAt: timestamppb.New(e.Expires)}}}
	case login.ShowCode:
		return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_ShowCode_{ShowCode: &tokendv1.LoginResponse_ShowCode{
			UserCode: e.UserCode, VerificationUrl: e.URL, VerificationUrlComplete: e.CompleteURL, ExpiresAt: timestamppb.New(e.Expires)}}}
	case login.Notice:
		return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_Notice_{Notice: &tokendv1.LoginResponse_Notice{Message: e.Message}}}
	}
	return &tokendv1.LoginResponse{}
}

// flowError is an error of package login, which is about the server or the
// person and not about our stores.
type flowError struct{ error }

func (e flowError) Unwrap() error { return e.error }

// loginError sorts what a login ended with.
func (s *profiles) loginError(ctx context.Context, name string, err error) error {
	var flow flowError
	var answer *oauth.Error
	var mistakes *profile.Mistakes
	p := func(reason tokendv1.Reason) error { return failure(reason, err.Error(), "profile", name) }
	switch _, said := status.FromError(err); {
	case said:
		return err
	case errors.Is(context.Cause(ctx), errReplaced):
		return failure(tokendv1.Reason_REASON_VERSION_CHANGED, errReplaced.Error(), "profile", name)
	case errors.Is(context.Cause(ctx), errTooManyLogins):
		return failure(tokendv1.Reason_REASON_THROTTLED, errTooManyLogins.Error(), "profile", name)
	case s.d.stopping.Err() != nil:
		return s.d.ended(ctx)
	case errors.Is(ctx.Err(), context.Canceled):
		return status.FromContextError(err).Err()
	case !errors.As(err, &flow), errors.As(err, &mistakes):
		return profileError(name, err)
	case errors.Is(err, login.ErrDenied), errors.Is(err, login.ErrNotConfirmed):
		return p(tokendv1.Reason_REASON_DENIED)
	case errors.Is(err, login.ErrExpired), ctx.Err() != nil:
		return failure(tokendv1.Reason_REASON_LOGIN_REQUIRED, "nobody logged in in time", "profile", name)
	case errors.Is(err, oauth.ErrOtherResource), errors.Is(err, oauth.ErrOtherIssuer):
		return p(tokendv1.Reason_REASON_REQUEST_REFUSED)
	case errors.As(err, &answer) && answer.Kind != oauth.Invalid:
		return answerError(name, "", answer, answer.RetryAfter)
	}
	return p(tokendv1.Reason_REASON_REQUEST_REFUSED)
}
