// Command authserver runs a scripted authorization server for tests and
// demonstrations; see package tokend/test/authserver. Its first line on
// standard output is a JSON object with ready, url (below which the controls
// are), issuer, token_url, resource, pid and, with TLS, ca_file, with client
// certificates mtls_url.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tokend/test/authserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "authserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	var cfg authserver.Config
	flags := flag.NewFlagSet("authserver", flag.ContinueOnError)
	flags.Func("config", "`file` with the JSON of authserver.Config; flags after it change that", func(name string) error {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return json.Unmarshal(data, &cfg)
	})
	flags.StringVar(&cfg.Addr, "addr", "127.0.0.1:0", "`address` to listen on")
	flags.StringVar(&cfg.Path, "path", "", "path of the issuer, as /tenant")
	flags.StringVar(&cfg.Alg, "alg", "EdDSA", "algorithm that tokens are signed with, EdDSA or RS256")
	flags.DurationVar(&cfg.Lifetime, "lifetime", time.Hour, "lifetime of access tokens")
	flags.BoolVar(&cfg.TLS, "tls", false, "speak https")
	flags.BoolVar(&cfg.MTLS, "mtls", false, "with -tls, ask for client certificates on a second port")
	flags.Func("client", "`id:secret[:basic|post|raw|opaque]`, repeatable", func(s string) error {
		c, err := parseClient(s)
		cfg.Clients = append(cfg.Clients, c)
		return err
	})
	flags.Func("client-file", "`file` with a JSON array of clients, as in authserver.Client", func(name string) error {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var clients []authserver.Client
		if err := json.Unmarshal(data, &clients); err != nil {
			return err
		}
		cfg.Clients = append(cfg.Clients, clients...)
		return nil
	})
	untilEOF := flags.Bool("stdin", false, "exit when standard input ends")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}

	s, err := authserver.Listen(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	var caFile string
	if s.CA != nil {
		dir, err := os.MkdirTemp("", "authserver-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		caFile = filepath.Join(dir, "ca.pem")
		if err := os.WriteFile(caFile, s.CA, 0o644); err != nil {
			return err
		}
	}
	if *untilEOF {
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(ctx)
		defer stop()
		go func() {
			io.Copy(io.Discard, stdin)
			stop()
		}()
	}
	err = json.NewEncoder(stdout).Encode(struct {
		Ready    bool   `json:"ready"`
		URL      string `json:"url"`
		Issuer   string `json:"issuer"`
		TokenURL string `json:"token_url"`
		Resource string `json:"resource"`
		CAFile   string `json:"ca_file,omitempty"`
		MTLSURL  string `json:"mtls_url,omitempty"`
		PID      int    `json:"pid"`
	}{true, s.URL, s.Issuer, s.TokenURL, s.ResourceURL, caFile, s.MTLSURL, os.Getpid()})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// parseClient takes the last part for the kind of client only if it is one, so
// that a secret may have colons.
func parseClient(s string) (authserver.Client, error) {
	id, secret, ok := strings.Cut(s, ":")
	if !ok {
		return authserver.Client{}, errors.New("want id:secret")
	}
	c := authserver.Client{ID: id, Secret: secret}
	i := strings.LastIndex(secret, ":")
	if i < 0 {
		return c, nil
	}
	switch kind := secret[i+1:]; kind {
	case authserver.AuthBasic, authserver.AuthPost, authserver.AuthRaw:
		c.Secret, c.Auth = secret[:i], kind
	case "opaque":
		c.Secret, c.Opaque = secret[:i], true
	}
	return c, nil
}
