package store

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
)

// Whatever is in an .age-recipients file, what is encrypted to its lines can be
// read back with the store's own identity; an error names no more than a line.
func FuzzParseRecipients(f *testing.F) {
	id, err := parseIdentity([]byte("AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0\n"))
	if err != nil {
		f.Fatal(err)
	}
	own := id.Recipient()
	other, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		f.Fatal(err)
	}
	const ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKLXbxUeYaGBfRPs2fJr8Y3cHbXVUqVMRxYPYfcqDlvX a comment"
	for _, text := range []string{
		"OWN\n", "# x\r\n\nOWN\r\n" + other.Recipient().String(), other.Recipient().String() + "\n", "OWN\n" + hybrid.Recipient().String(), "OWN\n" + ssh,
		"OWN\nage1yubikey1q2w7u3vpya839jxxuq8g0sedh3d740d4xvn639sqhr95ejj8vu3hyfumptt", " OWN \x00", "OWN OWN", strings.ToUpper("OWN"), "OWN\n" + strings.Repeat("a", 1<<16), "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ==",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		text = bytes.ReplaceAll(text, []byte("OWN"), []byte(own))
		recipients, err := parseRecipients(text, id.recipient)
		if err != nil {
			if recipients != nil || strings.Contains(err.Error(), "AGE-SECRET-KEY-") {
				t.Fatalf("%v, %v", recipients, err)
			}
			return
		}
		if !bytes.Contains(text, []byte(own)) {
			t.Fatalf("%q: it is not its own", text)
		}
		var sealed bytes.Buffer
		w, err := age.Encrypt(&sealed, recipients...)
		if err != nil {
			return // two kinds that age does not mix
		}
		if _, err := io.WriteString(w, "secret"); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if data, err := id.Open(sealed.Bytes()); err != nil || string(data) != "secret" {
			t.Fatalf("%q: %q, %v", text, data, err)
		}
	})
}
