package store

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// parseSSHKey reads one line as in authorized_keys, without options, of a key
// that age can encrypt to.
func parseSSHKey(line string) (ssh.PublicKey, age.Recipient, error) {
	line = strings.TrimSpace(line)
	if strings.ContainsAny(line, "\r\n") {
		return nil, nil, errors.New("the SSH public key is more than one line")
	}
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return nil, nil, errors.New("that is no SSH public key, which looks like: ssh-ed25519 AAAA… comment")
	}
	if err := checkSSHKeyType(fields[0]); err != nil {
		return nil, nil, err
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || key.Type() != fields[0] {
		return nil, nil, fmt.Errorf("the SSH public key is damaged: no %s key follows the type", fields[0])
	}
	if len(options) > 0 {
		return nil, nil, errors.New("the SSH public key has options before it; give its type and the key alone")
	}
	var recipient age.Recipient
	switch key.Type() {
	case ssh.KeyAlgoED25519:
		recipient, err = agessh.NewEd25519Recipient(key)
	default:
		if bits := rsaBits(key); bits < minRSABits {
			return nil, nil, fmt.Errorf("the SSH public key is RSA of %d bits, and less than %d is too weak", bits, minRSABits)
		}
		recipient, err = agessh.NewRSARecipient(key)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the SSH public key is damaged: %w", err)
	}
	return key, recipient, nil
}

const minRSABits = 2048 // as age has it

func rsaBits(key ssh.PublicKey) int {
	withKey, _ := key.(ssh.CryptoPublicKey)
	if withKey == nil {
		return 0
	}
	public, _ := withKey.CryptoPublicKey().(*rsa.PublicKey)
	if public == nil {
		return 0
	}
	return public.N.BitLen()
}

func checkSSHKeyType(name string) error {
	switch {
	case name == ssh.KeyAlgoED25519 || name == ssh.KeyAlgoRSA:
		return nil
	case strings.HasPrefix(name, "sk-"):
		return errors.New("the SSH key is a security token's, which signs and cannot decrypt; use ssh-ed25519 or ssh-rsa, or an age plugin for the token")
	case strings.HasPrefix(name, "ecdsa-"):
		return errors.New("the SSH key is ECDSA, which age cannot encrypt to; use ssh-ed25519 or ssh-rsa")
	case strings.HasPrefix(name, "ssh-") && strings.Contains(name, "-cert-"):
		return errors.New("that is an SSH certificate; give the public key itself")
	case name == "ssh-dss":
		return errors.New("the SSH key is DSA, which age cannot encrypt to; use ssh-ed25519 or ssh-rsa")
	}
	return errors.New("that is no SSH public key of a kind that age can encrypt to: it begins with ssh-ed25519 or ssh-rsa, without options")
}

// sshLine is the line of a key without its comment.
func sshLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func sshProtection(line string) (Protection, error) {
	key, _, err := parseSSHKey(line)
	if err != nil {
		return Protection{}, err
	}
	return Protection{Kind: SSH, PublicKey: sshLine(key)}, nil
}

func unwrapSSH(ctx context.Context, sealed []byte, p Protection, ask Ask) ([]byte, error) {
	public, _, err := parseSSHKey(p.PublicKey)
	if err != nil {
		return nil, err
	}
	var problem error
	for try := range tries {
		answer, err := ask(ctx, Prompt{
			Kind: AskSSHKey, Message: "private key of " + ssh.FingerprintSHA256(public),
			PublicKey: sshLine(public), Again: try > 0,
		})
		if err != nil {
			return nil, err
		}
		identity, wrong, err := sshIdentity(ctx, answer.Secret, public, ask)
		clear(answer.Secret)
		if err != nil {
			return nil, err
		}
		if wrong == nil {
			return openWithSSH(sealed, identity, public)
		}
		problem = wrong
	}
	return nil, fmt.Errorf("%w: %w", ErrRefused, problem)
}

func openWithSSH(sealed []byte, identity age.Identity, public ssh.PublicKey) ([]byte, error) {
	text, err := decrypt(sealed, identity)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, fmt.Errorf("it is wrapped to another SSH key than %s", ssh.FingerprintSHA256(public))
	}
	return text, err
}

// sshIdentity reads a private key, asking for its passphrase where it has one.
// wrong says why it is not the private key of public; it quotes nothing of it.
func sshIdentity(ctx context.Context, private []byte, public ssh.PublicKey, ask Ask) (identity age.Identity, wrong, err error) {
	key, err := ssh.ParseRawPrivateKey(private)
	var encrypted *ssh.PassphraseMissingError
	if errors.As(err, &encrypted) {
		// Older formats do not say whose it is.
		if encrypted.PublicKey != nil && !bytes.Equal(encrypted.PublicKey.Marshal(), public.Marshal()) {
			return nil, anotherSSHKey(encrypted.PublicKey, public), nil
		}
		if rounds := bcryptRounds(private); rounds > maxBcryptRounds {
			return nil, nil, fmt.Errorf("%w: the passphrase of the SSH key is stretched by %d rounds of bcrypt, and more than %d is refused; make it fewer: ssh-keygen -p -a 64 -f FILE",
				ErrRefused, rounds, maxBcryptRounds)
		}
		if key, err = decryptSSHKey(ctx, private, public, ask); err != nil {
			return nil, nil, err
		}
	} else if err != nil {
		return nil, errors.New("that is no SSH private key"), nil
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the SSH private key is of an unknown kind, %T", key), nil
	}
	its, err := ssh.NewPublicKey(signer.Public())
	if err != nil {
		return nil, errors.New("the SSH private key is of an unknown kind"), nil
	}
	if !bytes.Equal(its.Marshal(), public.Marshal()) {
		return nil, anotherSSHKey(its, public), nil
	}
	identity, err = ageOfSSH(key)
	if err != nil {
		return nil, err, nil
	}
	return identity, nil, nil
}

// maxBcryptRounds is about four seconds of work, in which nobody else's key is
// derived. ssh-keygen makes 24 unless it is told otherwise.
const maxBcryptRounds = 256

// bcryptRounds is how much work it is to open an encrypted private key: the rounds
// of bcrypt in a file of OpenSSH's own format (PROTOCOL.key), 0 in any other.
func bcryptRounds(private []byte) uint32 {
	block, _ := pem.Decode(private)
	if block == nil {
		return 0
	}
	text, ok := bytes.CutPrefix(block.Bytes, []byte("openssh-key-v1\x00"))
	if !ok {
		return 0
	}
	var head struct {
		Cipher, KDF, Options string
		Rest                 []byte `ssh:"rest"`
	}
	var options struct {
		Salt   string
		Rounds uint32
	}
	if ssh.Unmarshal(text, &head) != nil || ssh.Unmarshal([]byte(head.Options), &options) != nil {
		return 0
	}
	return options.Rounds
}

func anotherSSHKey(got, want ssh.PublicKey) error {
	return fmt.Errorf("the SSH key is %s (%s), and %s (%s) was wanted",
		ssh.FingerprintSHA256(got), got.Type(), ssh.FingerprintSHA256(want), want.Type())
}

func decryptSSHKey(ctx context.Context, private []byte, public ssh.PublicKey, ask Ask) (any, error) {
	for try := range tries {
		answer, err := ask(ctx, Prompt{
			Kind: AskSecret, Message: "passphrase of the SSH key " + ssh.FingerprintSHA256(public), Again: try > 0,
		})
		if err != nil {
			return nil, err
		}
		if len(answer.Secret) == 0 {
			continue
		}
		key, err := ssh.ParseRawPrivateKeyWithPassphrase(private, answer.Secret)
		clear(answer.Secret)
		if err == nil {
			return key, nil
		}
		if !errors.Is(err, x509.IncorrectPasswordError) {
			return nil, errors.New("the SSH private key is damaged, or encrypted in a way that is not known here")
		}
	}
	return nil, fmt.Errorf("%w: it is not the passphrase of the SSH key", ErrRefused)
}

// ageOfSSH makes an age identity of what x/crypto/ssh parsed.
func ageOfSSH(key any) (age.Identity, error) {
	switch key := key.(type) {
	case *ed25519.PrivateKey:
		defer clear(*key)
		return agessh.NewEd25519Identity(*key)
	case ed25519.PrivateKey:
		defer clear(key)
		return agessh.NewEd25519Identity(key)
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < minRSABits {
			return nil, fmt.Errorf("the SSH key is RSA of %d bits, and less than %d is too weak", bits, minRSABits)
		}
		return agessh.NewRSAIdentity(key)
	}
	return nil, errors.New("the SSH key is neither Ed25519 nor RSA, which is what age can use")
}
