package oauth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretPrintsAsRedacted(t *testing.T) {
	s := NewSecret("hunter2")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T%v", "%10.3s"} {
		for _, v := range []any{s, &s, []Secret{s}, map[string]Secret{"k": s}, Client{Secret: s}, &Token{AccessToken: s, RefreshToken: s}} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, "hunter2") || strings.Contains(strings.ToLower(got), fmt.Sprintf("%x", "hunter2")) {
				t.Errorf("%s of %T printed %s", verb, v, got)
			}
		}
	}
	if got := fmt.Sprintf("%v %#v %x", s, s, s); got != "[redacted] [redacted] [redacted]" {
		t.Errorf("got %s", got)
	}
	if s.String() != redacted || s.GoString() != redacted {
		t.Error("String or GoString is wrong")
	}
	data, err := json.Marshal(map[Secret]any{s: Client{Secret: s}})
	if err != nil || bytes.Contains(data, []byte("hunter2")) {
		t.Errorf("json: %s, %v", data, err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "s", s, "c", Client{Secret: s}, "p", &s)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "s", s, "c", Client{Secret: s}, "p", &s)
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("slog: %s", log.String())
	}
	if s.Reveal() != "hunter2" || s.IsZero() || !(Secret{}).IsZero() || s != NewSecret("hunter2") {
		t.Error("Reveal, IsZero or equality is wrong")
	}
}

func TestTransportPrintsNoProxyPassword(t *testing.T) {
	for proxy, want := range map[string]string{
		"http://user:hunter2@p:3128": `{CA:0 bytes Proxy:"http://p:3128"}`,
		"hunter2@p:3128":             `{CA:0 bytes Proxy:"[redacted]"}`,
		"user:hunter2":               `{CA:0 bytes Proxy:"[redacted]"}`,
		"direct":                     `{CA:0 bytes Proxy:"direct"}`,
		"":                           `{CA:0 bytes Proxy:""}`,
	} {
		tr := Transport{Proxy: proxy, Certificate: "hunter2", CertificateKey: NewSecret("hunter2")}
		if got := fmt.Sprintf("%#v", tr); got != want {
			t.Errorf("%q: got %s, want %s", proxy, got, want)
		}
		data, err := json.Marshal(Client{Transport: tr})
		if err != nil || bytes.Contains(data, []byte("hunter2")) || strings.Contains(fmt.Sprintf("%+v", Client{Transport: tr}), "hunter2") {
			t.Errorf("%q: %s, %v", proxy, data, err)
		}
	}
}
