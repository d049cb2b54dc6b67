package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"tokend/broker"
	"tokend/oauth"
	"tokend/profile"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

// domain is ErrorInfo's, which client/errors.go looks for.
const domain = "tokend"

// grpcCodes is the table of SPEC 6; client/errors.go is the way back.
var grpcCodes = map[tokendv1.Reason]codes.Code{
	tokendv1.Reason_REASON_LOGIN_REQUIRED:    codes.Unauthenticated,
	tokendv1.Reason_REASON_DENIED:            codes.PermissionDenied,
	tokendv1.Reason_REASON_NOT_INITIALIZED:   codes.FailedPrecondition,
	tokendv1.Reason_REASON_LOCKED:            codes.FailedPrecondition,
	tokendv1.Reason_REASON_PROFILE_NOT_FOUND: codes.NotFound,
	tokendv1.Reason_REASON_UNTRUSTED:         codes.FailedPrecondition,
	tokendv1.Reason_REASON_CLIENT_REFUSED:    codes.PermissionDenied,
	tokendv1.Reason_REASON_REQUEST_REFUSED:   codes.PermissionDenied,
	tokendv1.Reason_REASON_MIN_VALID_UNMET:   codes.OutOfRange,
	tokendv1.Reason_REASON_THROTTLED:         codes.Unavailable,
	tokendv1.Reason_REASON_PROVIDER_DOWN:     codes.Unavailable,
	tokendv1.Reason_REASON_STORE_UNAVAILABLE: codes.Unavailable,
	tokendv1.Reason_REASON_PROFILE_INVALID:   codes.FailedPrecondition,
	tokendv1.Reason_REASON_SETTINGS_INVALID:  codes.FailedPrecondition,
	tokendv1.Reason_REASON_VERSION_CHANGED:   codes.Aborted,
	tokendv1.Reason_REASON_REQUEST_INVALID:   codes.InvalidArgument,
	tokendv1.Reason_REASON_ALREADY_EXISTS:    codes.AlreadyExists,
}

// failure is the error of a call: a reason, one line of cause, and metadata as
// pairs of key and value.
func failure(reason tokendv1.Reason, message string, meta ...string) error {
	return failureAfter(reason, message, 0, meta...)
}

func failureAfter(reason tokendv1.Reason, message string, retry time.Duration, meta ...string) error {
	info := &errdetails.ErrorInfo{
		Reason: reason.String()[len("REASON_"):],
		Domain: domain,
	}
	for i := 0; i+1 < len(meta); i += 2 {
		if meta[i+1] != "" {
			if info.Metadata == nil {
				info.Metadata = make(map[string]string)
			}
			info.Metadata[meta[i]] = cut(meta[i+1], maxMeta)
		}
	}
	details := []protoadapt.MessageV1{info}
	if retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
	}
	s, err := status.New(grpcCodes[reason], cut(message, maxLine)).WithDetails(details...)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return s.Err()
}

// Errors travel in a header, for which clients have little room, and a text can
// have thousands of mistakes.
const (
	maxLine = 2 << 10
	maxMeta = 1 << 10
)

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + " …"
}

// tooLarge is the answer in place of one that no client would take.
func tooLarge() error {
	return failure(tokendv1.Reason_REASON_PROFILE_INVALID, fmt.Sprintf("what was asked for is larger than an answer may be, %d bytes", maxMessage))
}

func invalid(field, message string) error {
	return failure(tokendv1.Reason_REASON_REQUEST_INVALID, field+": "+message)
}

// invalidName is invalid for what store.CheckName says, without saying "name"
// twice.
func invalidName(field string, err error) error {
	var bad *store.NameError
	if errors.As(err, &bad) {
		return invalid(field, strconv.Quote(bad.Name)+" "+bad.Problem)
	}
	return invalid(field, err.Error())
}

// storeError is a store's error that is about no one profile.
func storeError(err error) error {
	if errors.Is(err, store.ErrLocked) {
		return locked()
	}
	return failure(tokendv1.Reason_REASON_STORE_UNAVAILABLE, err.Error(), "cause", keyringCause(err))
}

// keyringCause says why the keyring is to blame for err, "" where it is not.
func keyringCause(err error) string {
	var keyring *store.KeyringError
	if errors.As(err, &keyring) {
		return string(keyring.Cause)
	}
	return ""
}

func locked() error { return failure(tokendv1.Reason_REASON_LOCKED, "locked") }

// recipientsError is the error of an .age-recipients file that cannot be used.
func recipientsError(e *store.RecipientsError, meta ...string) error {
	return failure(tokendv1.Reason_REASON_PROFILE_INVALID, e.Error(), append(meta, "folder", e.Folder+"/")...)
}

// profileError turns the errors of broker, profile and store into the call's.
func profileError(name string, err error) error {
	var (
		mistakes  *profile.Mistakes
		lifetime  *broker.LifetimeError
		answer    *oauth.Error
		refused   *broker.RefusedError
		untrusted *store.UntrustedError
		wrongFile *store.RecipientsError
		collision *store.CollisionError
		login     *broker.LoginError
		subject   *broker.SubjectError
		throttled *broker.ThrottledError
		badName   *store.NameError
	)
	p := func(reason tokendv1.Reason, meta ...string) error {
		return failure(reason, err.Error(), append(meta, "profile", name)...)
	}
	switch {
	case errors.As(err, &subject) && errors.Is(subject.Err, store.ErrNotExist):
		return failure(tokendv1.Reason_REASON_PROFILE_INVALID, "OAUTH2_SUBJECT_TOKEN_PROFILE: there is no profile "+subject.Profile,
			"profile", name, "variable", "OAUTH2_SUBJECT_TOKEN_PROFILE")
	case errors.As(err, &subject):
		return profileError(subject.Profile, subject.Err)
	case errors.As(err, &login):
		return p(tokendv1.Reason_REASON_LOGIN_REQUIRED, "variable", login.Variable, "oauth_error", login.Code)
	case errors.Is(err, store.ErrNotExist):
		return failure(tokendv1.Reason_REASON_PROFILE_NOT_FOUND, "no such profile", "profile", name)
	case errors.Is(err, store.ErrLocked):
		return failure(tokendv1.Reason_REASON_LOCKED, "locked", "profile", name)
	case errors.Is(err, store.ErrConflict):
		return failure(tokendv1.Reason_REASON_VERSION_CHANGED, "it was changed by somebody else meanwhile; nothing was written", "profile", name)
	case errors.As(err, &badName):
		return p(tokendv1.Reason_REASON_REQUEST_INVALID)
	case errors.As(err, &collision):
		return p(tokendv1.Reason_REASON_ALREADY_EXISTS, "suggestion", collision.Existing)
	case errors.As(err, &untrusted):
		folder := untrusted.Folder + "/"
		return failure(tokendv1.Reason_REASON_UNTRUSTED, "the recipients file of folder "+folder+" has not been trusted on this machine", "profile", name, "folder", folder)
	case errors.As(err, &wrongFile):
		return recipientsError(wrongFile, "profile", name)
	case errors.Is(err, broker.ErrUntrusted):
		return p(tokendv1.Reason_REASON_UNTRUSTED)
	case errors.As(err, &mistakes):
		first := mistakes.List[0]
		line := ""
		if first.Line > 0 {
			line = strconv.Itoa(first.Line)
		}
		return p(tokendv1.Reason_REASON_PROFILE_INVALID, "line", line, "variable", first.Variable)
	case errors.As(err, &lifetime):
		return p(tokendv1.Reason_REASON_MIN_VALID_UNMET, "lifetime", strconv.Itoa(int(lifetime.Lifetime/time.Second)))
	case errors.As(err, &throttled):
		said := ""
		if errors.As(err, &answer) {
			said = strconv.Itoa(answer.Status)
		}
		return failureAfter(tokendv1.Reason_REASON_THROTTLED, err.Error(), throttled.RetryAfter, "profile", name, "http_status", said)
	case errors.As(err, &answer):
		variable, retry := "", answer.RetryAfter
		switch {
		case errors.As(err, &refused):
			variable, retry = refused.Variable, refused.RetryAfter
		case errors.As(err, new(*broker.DiscoveryError)):
			variable = "OAUTH2_ISSUER"
		}
		return answerError(name, variable, answer, retry)
	case errors.Is(err, context.DeadlineExceeded):
		return failure(tokendv1.Reason_REASON_PROVIDER_DOWN, "no answer in time", "profile", name)
	case errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	}
	return p(tokendv1.Reason_REASON_STORE_UNAVAILABLE, "cause", keyringCause(err))
}

// problem is what watchers of a profile are told of the error that its call would
// fail with: the same, in a message.
func problem(name string, err error) *tokendv1.Problem {
	s := status.Convert(err)
	p := &tokendv1.Problem{Message: s.Message()}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			meta := d.GetMetadata()
			p.Reason = tokendv1.Reason(tokendv1.Reason_value["REASON_"+d.GetReason()])
			p.Variable, p.OauthError = meta["variable"], meta["oauth_error"]
			if of := meta["profile"]; of != "" && of != name {
				p.Message = cut(of+": "+p.Message, maxLine)
			}
		case *errdetails.RetryInfo:
			p.RetryAfter = d.GetRetryDelay()
		}
	}
	return p
}

// answerError sorts what the authorization server said, or did not say.
func answerError(name, variable string, e *oauth.Error, retry time.Duration) error {
	meta := []string{"profile", name, "variable", variable, "oauth_error", e.Code}
	if e.Status != 0 {
		meta = append(meta, "http_status", strconv.Itoa(e.Status))
	}
	switch {
	case e.Kind == oauth.Invalid, errors.Is(e, oauth.ErrOtherIssuer):
		return failure(tokendv1.Reason_REASON_PROFILE_INVALID, e.Error(), meta...)
	case e.Status == http.StatusTooManyRequests, e.Code == "slow_down", e.Status == http.StatusServiceUnavailable && e.RetryAfter > 0:
		return failureAfter(tokendv1.Reason_REASON_THROTTLED, e.Error(), retry, meta...)
	case e.Kind == oauth.Temporary, e.Kind == oauth.Malformed:
		return failureAfter(tokendv1.Reason_REASON_PROVIDER_DOWN, e.Error(), retry, meta...)
	case e.Code == "" || e.Code == "invalid_client" || e.Code == "unauthorized_client" || e.Code == "invalid_token":
		return failureAfter(tokendv1.Reason_REASON_CLIENT_REFUSED, e.Error(), retry, meta...)
	}
	return failureAfter(tokendv1.Reason_REASON_REQUEST_REFUSED, e.Error(), retry, meta...)
}
