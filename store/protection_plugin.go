package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"filippo.io/age"
	"filippo.io/age/plugin"
)

// A PluginError says that a plugin may not be run, or is not there.
type PluginError struct {
	Name    string
	Allowed bool // it is only not found
}

func (e *PluginError) Error() string {
	if e.Allowed {
		return fmt.Sprintf("the age plugin %q may be run, but there is no program age-plugin-%s in the daemon's PATH", e.Name, e.Name)
	}
	return fmt.Sprintf("the age plugin %q may not be run; add to the configuration: TOKEND_PLUGINS=%s", e.Name, e.Name)
}

// pluginLine returns the plugin's identity as age writes it, also for its own
// default, which has no data.
func (p Protection) pluginLine() (string, error) {
	line := p.PluginIdentity
	if line == "" {
		line = plugin.EncodeIdentity(p.Plugin, nil)
	}
	name, _, err := plugin.ParseIdentity(line)
	switch {
	case err != nil && p.PluginIdentity == "":
		return "", fmt.Errorf("%q is no name of an age plugin, which is such as: yubikey", p.Plugin)
	case err != nil:
		return "", errors.New("that is no plugin's identity, which looks like: AGE-PLUGIN-YUBIKEY-1…")
	case name != p.Plugin:
		return "", fmt.Errorf("the identity is of the plugin %q, not of %q", name, p.Plugin)
	}
	return line, nil
}

func pluginProtection(line string) (Protection, error) {
	name, data, err := plugin.ParseIdentity(line)
	if err != nil {
		return Protection{}, errors.New("that is no plugin's identity, which looks like: AGE-PLUGIN-YUBIKEY-1…")
	}
	p := Protection{Kind: Plugin, Plugin: name}
	if len(data) > 0 {
		p.PluginIdentity = line
	}
	return p, nil
}

// pluginIdentity returns p's identity if its plugin may be run.
func (w InProcess) pluginIdentity(p Protection, ui *plugin.ClientUI) (*plugin.Identity, error) {
	line, err := p.pluginLine()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(w.Plugins, p.Plugin) {
		return nil, &PluginError{Name: p.Plugin}
	}
	return plugin.NewIdentity(line, ui)
}

func (w InProcess) wrapPlugin(ctx context.Context, text []byte, p Protection, ask Ask) ([]byte, error) {
	talk := pluginTalk{ctx: ctx, ask: ask}
	identity, err := w.pluginIdentity(p, talk.ui())
	if err != nil {
		return nil, err
	}
	sealed, err := seal(text, []age.Recipient{identity.Recipient()})
	if err != nil {
		return nil, talk.explain(p.Plugin, err)
	}
	return sealed, nil
}

func (w InProcess) unwrapPlugin(ctx context.Context, sealed []byte, p Protection, ask Ask) ([]byte, error) {
	talk := pluginTalk{ctx: ctx, ask: ask}
	identity, err := w.pluginIdentity(p, talk.ui())
	if err != nil {
		return nil, err
	}
	heard := &heardIdentity{Identity: identity}
	text, err := decrypt(sealed, heard)
	if heard.err == nil {
		return text, err
	}
	err = talk.explain(p.Plugin, heard.err)
	if errors.Is(heard.err, age.ErrIncorrectIdentity) {
		err = fmt.Errorf("%w: age-plugin-%s has no key for it", ErrRefused, p.Plugin)
	} else if errors.As(err, new(*saidError)) {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil, err
}

// heardIdentity keeps the error of Unwrap apart from what age finds wrong later.
type heardIdentity struct {
	age.Identity
	err error
}

func (h *heardIdentity) Unwrap(stanzas []*age.Stanza) (key []byte, err error) {
	key, h.err = h.Identity.Unwrap(stanzas)
	return key, h.err
}

// A saidError is a plugin's own. Its text is quoted, so that it is printable.
type saidError struct{ name, text string }

func (e *saidError) Error() string {
	return fmt.Sprintf("age-plugin-%s failed: %.300q", e.name, e.text)
}

// explain tells apart why a plugin did not do what it was asked for.
func (t *pluginTalk) explain(name string, err error) error {
	if t.err != nil {
		return t.err
	}
	if err := t.ctx.Err(); err != nil {
		return err
	}
	if missing := new(plugin.NotFoundError); errors.As(err, &missing) {
		return &PluginError{Name: name, Allowed: true}
	}
	if start := new(fs.PathError); errors.As(err, &start) && start.Op == "fork/exec" {
		return fmt.Errorf("age-plugin-%s cannot be run: %w", name, start.Err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("age-plugin-%s ended without an answer", name)
	}
	_, text, found := strings.Cut(err.Error(), name+" plugin: ")
	if !found {
		text = err.Error()
	}
	return &saidError{name, text}
}

// pluginTalk hands to a person what a plugin asks. age tells the plugin of an
// error, and nobody else, so the first is kept.
type pluginTalk struct {
	ctx context.Context
	ask Ask
	err error
}

func (t *pluginTalk) put(p Prompt) (Answer, error) {
	answer, err := t.ask(t.ctx, p)
	if err != nil && t.err == nil {
		t.err = err
	}
	return answer, err
}

func (t *pluginTalk) ui() *plugin.ClientUI {
	return &plugin.ClientUI{
		DisplayMessage: func(name, message string) error {
			_, err := t.put(Prompt{Kind: AskMessage, Message: says(name, message)})
			return err
		},
		RequestValue: func(name, message string, secret bool) (string, error) {
			kind := AskText
			if secret {
				kind = AskSecret
			}
			answer, err := t.put(Prompt{Kind: kind, Message: says(name, message)})
			defer clear(answer.Secret)
			if secret {
				return string(answer.Secret), err
			}
			return answer.Text, err
		},
		Confirm: func(name, message, yes, no string) (bool, error) {
			answer, err := t.put(Prompt{Kind: AskConfirm, Message: says(name, message), Yes: yes, No: no})
			return answer.Yes, err
		},
	}
}

func says(name, message string) string { return "age-plugin-" + name + ": " + message }
