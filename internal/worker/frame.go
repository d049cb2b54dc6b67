package worker

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"

	"tokend/store"
)

// message is what goes over the pipes: a job to the child, then any number of
// prompts from it, each with an answer, and at last what came of the job. The one
// secret of each, such as a text, a passphrase or a file, travels beside it.
type message struct {
	Job     *job          `json:"job,omitempty"`
	Prompt  *store.Prompt `json:"prompt,omitempty"`
	Answer  *answer       `json:"answer,omitempty"`
	Outcome *outcome      `json:"outcome,omitempty"`
}

// job is what a child is to do, once.
type job struct {
	Do         task             `json:"do"`
	Account    string           `json:"account,omitempty"`
	Protection store.Protection `json:"protection"`
	Plugins    []string         `json:"plugins,omitempty"`
}

type task string

const (
	wrap          task = "wrap"
	unwrap        task = "unwrap"
	getItem       task = "get"
	setItem       task = "set"
	deleteItem    task = "delete"
	maxHeader          = 64 << 10
	maxSecret          = 2 << 20 // an identity file or a profile is far smaller
	frameOverhead      = 8
)

// answer is a store.Answer without its secret.
type answer struct {
	Text    string `json:"text,omitempty"`
	Yes     bool   `json:"yes,omitempty"`
	Refused bool   `json:"refused,omitempty"` // there is nobody who answers
}

// outcome is how a job ended: an error that callers decide by crosses the pipe
// as one of the three.
type outcome struct {
	Error   string             `json:"error,omitempty"`
	Kind    kind               `json:"kind,omitempty"`
	Plugin  *store.PluginError `json:"plugin,omitempty"`
	Keyring store.KeyringCause `json:"keyring,omitempty"`
}

type kind string

const (
	refused kind = "refused" // store.ErrRefused
	absent  kind = "absent"  // store.ErrNotExist
)

func outcomeOf(err error) *outcome {
	if err == nil {
		return &outcome{}
	}
	o := &outcome{Error: err.Error()}
	var keyring *store.KeyringError
	switch {
	case errors.As(err, &o.Plugin):
	case errors.As(err, &keyring):
		o.Keyring = keyring.Cause
	case errors.Is(err, store.ErrRefused):
		o.Kind = refused
	case errors.Is(err, store.ErrNotExist):
		o.Kind = absent
	}
	return o
}

// err is the error of outcomeOf again.
func (o *outcome) err() error {
	switch {
	case o.Error == "":
		return nil
	case o.Plugin != nil:
		return &failure{o.Error, o.Plugin}
	case o.Keyring != "":
		return &store.KeyringError{Cause: o.Keyring, Err: errors.New(o.Error)}
	case o.Kind == refused:
		return &failure{o.Error, store.ErrRefused}
	case o.Kind == absent:
		return &failure{o.Error, store.ErrNotExist}
	}
	return errors.New(o.Error)
}

// failure is an error of the child's with what callers decide by.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

// send writes m and a secret: the lengths of both, the JSON of m, and the secret
// as it is, because encoding/json keeps copies of what it has handled.
func send(w io.Writer, m message, secret []byte) error {
	header, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(header) > maxHeader || len(secret) > maxSecret {
		return errors.New("too large for a worker")
	}
	frame := make([]byte, frameOverhead, frameOverhead+len(header))
	binary.BigEndian.PutUint32(frame, uint32(len(header)))
	binary.BigEndian.PutUint32(frame[4:], uint32(len(secret)))
	if _, err := w.Write(append(frame, header...)); err != nil {
		return err
	}
	if len(secret) == 0 {
		return nil
	}
	_, err = w.Write(secret)
	return err
}

// receive reads what send wrote.
func receive(r io.Reader) (m message, secret []byte, err error) {
	var lengths [frameOverhead]byte
	if _, err := io.ReadFull(r, lengths[:]); err != nil {
		return message{}, nil, err
	}
	inHeader, inSecret := binary.BigEndian.Uint32(lengths[:]), binary.BigEndian.Uint32(lengths[4:])
	if inHeader > maxHeader || inSecret > maxSecret {
		return message{}, nil, errNonsense
	}
	header := make([]byte, inHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return message{}, nil, err
	}
	if err := json.Unmarshal(header, &m); err != nil {
		return message{}, nil, errNonsense // json's own words quote what was sent
	}
	secret = make([]byte, inSecret)
	if _, err := io.ReadFull(r, secret); err != nil {
		clear(secret)
		return message{}, nil, err
	}
	return m, secret, nil
}

var errNonsense = errors.New("it said nonsense")
