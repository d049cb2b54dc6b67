package test

import (
	"bytes"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/test/authserver"
)

func init() { programs["rummage"] = rummage }

// rummage reads needles as JSON and counts, for each of them, where it is in the
// memory of the process that TOKEND_TEST_PID names. It wants to be root.
func rummage() error {
	var all []needle
	if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil {
		return err
	}
	h := newHaystack(all)
	counts := make([]int, len(all))
	pid := os.Getenv("TOKEND_TEST_PID")
	maps, err := os.ReadFile(filepath.Join("/proc", pid, "maps"))
	if err != nil {
		return err
	}
	mem, err := os.Open(filepath.Join("/proc", pid, "mem"))
	if err != nil {
		return err
	}
	defer mem.Close()
	total := 0
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if !strings.HasPrefix(f[1], "r") || len(f) > 5 && (f[5] == "[vvar]" || f[5] == "[vsyscall]" || f[5] == "[vvar_vclock]") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		a, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			return err
		}
		b, err := strconv.ParseUint(to, 16, 64)
		if err != nil {
			return err
		}
		data := make([]byte, b-a)
		if _, err := mem.ReadAt(data, int64(a)); err != nil {
			return fmt.Errorf("reading %s: %w", strings.TrimSpace(line), err)
		}
		total += len(data)
		h.find(data, func(i, at int) {
			counts[i]++
			if os.Getenv("TOKEND_TEST_VERBOSE") != "" {
				fmt.Fprintf(os.Stderr, "%s, %s at %#x in %s: %q\n", all[i].Kind, all[i].Form, a+uint64(at), f[0], data[max(0, at-64):min(at+128, len(data))])
			}
		})
	}
	if total < 1<<20 {
		return fmt.Errorf("only %d bytes of memory", total)
	}
	return json.NewEncoder(os.Stdout).Encode(counts)
}

// residue is how many copies of which secrets are in a process's memory, in
// whatever form, and of how many different secrets of that kind.
type residue map[string]struct{ copies, secrets int }

func residueOf(t *testing.T, pid int, secrets map[string][]string) residue {
	t.Helper()
	type owner struct {
		kind   string
		number int
	}
	var all []needle
	var owners []owner
	for kind, values := range secrets {
		for i, v := range values {
			for _, n := range needles(kind, v) {
				if strings.HasSuffix(n.Form, "half") {
					continue // it is counted with the whole
				}
				all, owners = append(all, n), append(owners, owner{kind, i})
			}
		}
	}
	in, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := asRoot("env", "TOKEND_TEST_AS=rummage", "TOKEND_TEST_PID="+strconv.Itoa(pid), "TOKEND_TEST_VERBOSE="+os.Getenv("TOKEND_TEST_VERBOSE"), exe)
	cmd.Stdin = bytes.NewReader(in)
	r := finish(t, cmd)
	var counts []int
	if err := json.Unmarshal([]byte(r.out), &counts); err != nil {
		t.Fatalf("looking into %d: %v", pid, r)
	}
	if r.err != "" {
		t.Log(r.err)
	}
	left, distinct := make(residue), make(map[owner]bool)
	for i, n := range counts {
		k := left[owners[i].kind]
		k.copies += n
		if n > 0 && !distinct[owners[i]] {
			distinct[owners[i]] = true
			k.secrets++
		}
		left[owners[i].kind] = k
	}
	return left
}

// rotations is how many refresh tokens the daemon sees.
const rotations = 50

// busy gives a daemon all kinds of secrets to work with, and returns them.
func busy(t *testing.T, h *home) map[string][]string {
	t.Helper()
	secrets := make(map[string][]string)
	canary := func(kind string) string {
		v := crand.Text() + crand.Text()
		secrets[kind] = append(secrets[kind], v)
		return v
	}
	key, numbers, public := newSigningKey(t)
	secrets["private key"] = numbers
	for _, line := range strings.Split(strings.TrimSpace(key), "\n")[1:] {
		if len(line) == 64 {
			secrets["private key"] = append(secrets["private key"], line)
		}
	}
	machine := authserver.Client{ID: "machine", Secret: canary("client secret"), Opaque: true}
	signer := authserver.Client{ID: "signer", Auth: authserver.AuthPrivateKeyJWT, JWKS: public, Opaque: true}
	person := authserver.Client{ID: "person", Auth: authserver.AuthNone, RedirectURIs: []string{"http://127.0.0.1/callback"}, Opaque: true}
	s := authserver.Start(t, authserver.Config{TLS: true, Clients: []authserver.Client{machine, signer, person}})
	ca := filepath.Join(h.root, "ca.pem")
	if err := os.WriteFile(ca, s.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	get := func(args ...string) {
		t.Helper()
		secrets["access token"] = append(secrets["access token"], h.get(t, args...))
	}

	passphrase := filepath.Join(h.root, "passphrase")
	if err := os.WriteFile(passphrase, []byte(canary("passphrase")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must(t, "", "init", "--passphrase", "--passphrase-file", passphrase)
	h.must(t, "", "lock")
	h.must(t, "", "unlock", "--passphrase-file", passphrase)
	secrets["identity"] = identityOf(t, h.status(t).IdentityFile, secrets["passphrase"][0])

	trusted := "TLS_CA_FILE=" + ca + "\n"
	h.must(t, profileOf(s, machine)+trusted+"NOTE="+canary("text")+"\n", "add", "machine")
	h.must(t, profileOf(s, machine)+trusted+"NOTE="+canary("text")+"\n", "edit", "machine")
	h.must(t, "", "show", "machine")
	h.must(t, "", "show", "--reveal", "machine")
	h.must(t, lines("OAUTH2_TOKEN_URL="+s.TokenURL, "OAUTH2_ASSERTION_AUDIENCE="+s.Issuer, "CLIENT_ID=signer", "PRIVATE_KEY='"+key+"'")+trusted, "add", "signer")
	for i := range 5 {
		get("machine", "--scope", fmt.Sprint("s", i))
		get("signer", "--scope", fmt.Sprint("s", i))
	}
	var scopes []string // each has a token of its own, and so a renewal
	for i := range rotations {
		scopes = append(scopes, fmt.Sprint("s", i))
	}
	h.must(t, lines("OAUTH2_GRANT=authorization_code", "OAUTH2_TOKEN_URL="+s.TokenURL, "OAUTH2_AUTH_URL="+s.Issuer+"/authorize", "CLIENT_ID=person", "OAUTH2_SCOPE='"+strings.Join(scopes, " ")+"'")+trusted, "add", "person")
	l := h.login(t, "--no-browser", "person")
	to := l.address(t)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: poolOf(t, s.CA)}, DisableKeepAlives: true}}
	resp, err := client.Get(to)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	l.succeeds(t)
	for _, scope := range scopes {
		get("person", "--scope", scope)
	}
	for _, line := range s.Ledger("person").Tokens {
		secrets["refresh token"] = append(secrets["refresh token"], line.Token)
	}
	for _, r := range s.Requests() {
		for name, kind := range map[string]string{"code": "code", "code_verifier": "verifier", "client_assertion": "assertion"} {
			if v := r.Form.Get(name); v != "" {
				secrets[kind] = append(secrets[kind], v)
			}
		}
	}
	if n := len(secrets["refresh token"]); n <= rotations {
		t.Fatalf("only %d refresh tokens", n)
	}
	h.must(t, "", "rm", "--yes", "signer")
	return secrets
}

// newSigningKey makes an RSA key, and gives what is secret in it, too.
func newSigningKey(t *testing.T) (text string, numbers []string, public jose.JSONWebKeySet) {
	t.Helper()
	key, err := rsa.GenerateKey(crand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		[]string{string(key.D.Bytes()), string(key.Primes[0].Bytes()), string(key.Primes[1].Bytes())},
		jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "RS256"}}}
}

func poolOf(t *testing.T, ca []byte) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("no CA")
	}
	return pool
}

// identityOf opens a file that a passphrase protects, and returns the key in it as
// it is written and as it is.
func identityOf(t *testing.T, file, passphrase string) []string {
	t.Helper()
	sealed, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer sealed.Close()
	key, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(sealed, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return keyIn(t, text)
}

// identityIn is identityOf for a bare file.
func identityIn(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return keyIn(t, text)
}

func keyIn(t *testing.T, text []byte) []string {
	t.Helper()
	written := regexp.MustCompile(`AGE-SECRET-KEY-1(\w+)`).FindStringSubmatch(string(text))[1]
	// Bech32: five bits a character, and a checksum of six.
	var raw []byte
	bits, n := 0, 0
	for _, c := range written[:len(written)-6] {
		bits, n = bits<<5|strings.IndexRune("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", c), n+5
		if n >= 8 {
			n -= 8
			raw = append(raw, byte(bits>>n))
			bits &= 1<<n - 1
		}
	}
	if len(raw) != 32 {
		t.Fatalf("%d bytes of %q", len(raw), written)
	}
	return []string{written, string(raw)}
}

// What is left of secrets in the daemon's memory. While it is unlocked and idle it
// has the identity, the tokens that it hands out, and nothing else. Locked it has
// nothing.
func TestMemoryResidue(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	secrets := busy(t, h)
	pid := h.status(t).PID
	after := residueOf(t, pid, secrets)
	// What it works with: each token that it hands out, and the identity.
	held := map[string]int{"access token": rotations + 5, "identity": 1}
	// It cleans up when nobody has called for a while.
	var idle residue
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		idle = residueOf(t, pid, secrets)
		if !slices.ContainsFunc(slices.Collect(maps.Keys(secrets)), func(kind string) bool { return idle[kind].copies > held[kind] }) {
			break
		}
	}
	stay(t, h, secrets)
	h.must(t, "", "lock")
	// Who watches lets go a moment later.
	var locked residue
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		locked = residueOf(t, pid, secrets)
		if !slices.ContainsFunc(slices.Collect(maps.Keys(secrets)), func(kind string) bool { return locked[kind].copies > 0 }) {
			break
		}
	}
	t.Logf("copies (of how many different ones) in memory:\n%s", residueTable(secrets, map[string]residue{"1 after the last call": after, "2 idle": idle, "3 locked": locked}))
	for kind := range secrets {
		if n := locked[kind].copies; n > 0 {
			t.Errorf("locked: %d copies of %s", n, kind)
		}
		if n := idle[kind].copies; n > held[kind] {
			t.Errorf("idle: %d copies of %s, at most %d are wanted", n, kind, held[kind])
		}
	}
	// What it needs is found, so what is not found is not there.
	if idle["access token"].secrets != held["access token"] || idle["identity"].copies == 0 {
		t.Errorf("the search does not find what must be there: %v", idle)
	}
}

// stay is two who keep a connection on which tokens have come. One of them watches on
// it; the other hears nothing more.
func stay(t *testing.T, h *home, secrets map[string][]string) {
	t.Helper()
	to := h.status(t).Socket
	connect := func() *grpc.ClientConn {
		conn, err := grpc.NewClient("unix:"+to, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	if _, err := tokendv1grpc.NewTokenServiceClient(connect()).GetToken(t.Context(), &tokendv1.GetTokenRequest{Profile: "person", Scopes: []string{"s0"}}); err != nil {
		t.Fatal(err)
	}
	conn := connect()
	tokens := tokendv1grpc.NewTokenServiceClient(conn)
	watch, err := tokens.WatchToken(t.Context(), &tokendv1.WatchTokenRequest{Tokens: []*tokendv1.WatchedToken{{Profile: "machine", Scopes: []string{"s1"}}, {Profile: "person", Scopes: []string{"s1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if events, err := tokendv1grpc.NewDaemonServiceClient(conn).WatchEvents(t.Context(), &tokendv1.WatchEventsRequest{}); err != nil {
		t.Fatal(err)
	} else if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for range 2 {
		now, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		seen[now.GetToken().GetAccessToken()] = true
	}
	for i := range rotations {
		got, err := tokens.GetToken(t.Context(), &tokendv1.GetTokenRequest{Profile: "person", Scopes: []string{fmt.Sprint("s", i)}})
		if err != nil {
			t.Fatal(err)
		}
		seen[got.GetAccessToken()] = true
	}
	for token := range seen {
		if !slices.Contains(secrets["access token"], token) {
			t.Errorf("a token that nobody else has got")
		}
	}
	if len(seen) != rotations+1 {
		t.Errorf("%d tokens have come", len(seen))
	}
}

// A build without the measures leaves nearly everything behind: the same search
// finds it.
func TestMemoryResidueWithoutWiping(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace,nethttpomithttp2", "-ldflags", "-s -w -X main.version=v0-test",
		"-o", dir, "tokend/cmd/tokend", "tokend/cmd/tokenctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h := mutated(t, -1, dir)
	h.setenv("TOKEND_FLOOR", "wipe-heap")
	secrets := busy(t, h)
	pid := h.status(t).PID
	r := h.tokenctl(t, "", "doctor")
	if r.code != 1 || !strings.Contains(r.out, "not built with clobberfree=1") {
		t.Errorf("doctor: %v", r)
	}
	h.must(t, "", "lock")
	locked := residueOf(t, pid, secrets)
	t.Logf("copies (of how many different ones) in memory:\n%s", residueTable(secrets, map[string]residue{"locked": locked}))
	for _, kind := range []string{"access token", "refresh token"} {
		if locked[kind].secrets < 3 {
			t.Errorf("%s: %+v", kind, locked[kind])
		}
	}
}

func residueTable(secrets map[string][]string, states map[string]residue) string {
	var b strings.Builder
	columns := slices.Sorted(maps.Keys(states))
	fmt.Fprintf(&b, "%-15s %5s", "", "there")
	for _, c := range columns {
		fmt.Fprintf(&b, " %24s", c)
	}
	for _, kind := range slices.Sorted(maps.Keys(secrets)) {
		fmt.Fprintf(&b, "\n%-15s %5d", kind, len(secrets[kind]))
		for _, c := range columns {
			fmt.Fprintf(&b, " %24s", fmt.Sprintf("%d (%d)", states[c][kind].copies, states[c][kind].secrets))
		}
	}
	return b.String()
}
