package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"tokend/client/api"
	"tokend/internal/settings"
)

// sshKey is the private key that belongs to the prompt's public one.
func (p *person) sshKey(prompt *api.Prompt) ([]byte, error) {
	wanted := bareKey(prompt.PublicKey)
	const hint = "name the file of its private key: TOKEND_SSH_KEY=FILE"
	if prompt.Again {
		return nil, &problem{Exit: exitDenied, Message: "the SSH key does not open the identity", Fix: hint}
	}
	file := p.settings.Get(settings.SSHKey)
	if p.sshFile != "" && wanted == p.sshPublic {
		file = p.sshFile
	}
	if file != "" {
		private, err := readKey(file)
		if err != nil {
			return nil, &problem{Exit: exitConfig, Message: "reading the SSH key: " + err.Error(), Fix: hint}
		}
		public, err := publicHalf(file, private)
		if err == nil && public != wanted {
			return nil, &problem{Exit: exitConfig, Message: file + " is another SSH key than the one that protects the identity, " + fingerprint(wanted), Fix: hint}
		}
		return private, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"id_ed25519", "id_rsa"} {
		file := filepath.Join(home, ".ssh", name)
		private, err := readKeyBy(openRegular, file)
		if err != nil {
			continue
		}
		// One that nobody has named is given only where it is known to be the one.
		if public, err := publicHalf(file, private); err == nil && public == wanted {
			return private, nil
		}
	}
	return nil, &problem{Exit: exitConfig, Message: "neither ~/.ssh/id_ed25519 nor ~/.ssh/id_rsa is the SSH key that protects the identity, " + fingerprint(wanted), Fix: hint}
}

// noteSSHKey says how unlock will find the key that was just chosen, where it would
// not by itself.
func (p *person) noteSSHKey(protection *api.IdentityProtection) {
	if protection == nil || protection.Ssh == nil {
		return
	}
	file := p.sshFile
	p.sshFile = ""
	key, err := p.sshKey(&api.Prompt{PublicKey: protection.Ssh.PublicKey})
	clear(key)
	if err == nil {
		return
	}
	if abs, err := filepath.Abs(file); err == nil {
		file = abs
	}
	note("to unlock, set %s=%s, such as in %s", settings.SSHKey, file, p.settings.ConfigFile)
}

// sshPublicKey is the public half of --ssh KEY, which is a private key's file or
// its .pub.
func sshPublicKey(file string) (string, error) {
	b, err := readKey(file)
	if err != nil {
		return "", &problem{Exit: exitUsage, Message: "reading the SSH key: " + err.Error()}
	}
	public, err := publicHalf(file, b)
	if err != nil {
		if line := bareKey(string(b)); line != "" {
			return line, nil
		}
		return "", &problem{Exit: exitUsage, Message: file + ": " + err.Error(), Fix: "run: ssh-keygen -y -f " + shellWord(file) + " > " + shellWord(file+".pub")}
	}
	return public, nil
}

// openRegular opens a file that nobody has named, so a pipe there, which may wait
// for ever, is a mistake.
func openRegular(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New(file + " is not a regular file; move it away")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readKey reads the file of a key, which may be a pipe.
func readKey(file string) ([]byte, error) { return readKeyBy(os.Open, file) }

func readKeyBy(open func(string) (*os.File, error), file string) ([]byte, error) {
	f, err := open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(b) > maxSecret {
		err = errors.New(file + " is longer than 16 KiB")
	}
	return b, err
}

// publicHalf is the public key, as bareKey returns it, of a private one. It
// stands readable in the format that OpenSSH writes, encrypted or not; for others
// it is read from the file's .pub.
func publicHalf(file string, private []byte) (string, error) {
	if block, _ := pem.Decode(private); block != nil && block.Type == "OPENSSH PRIVATE KEY" {
		return publicInOpenSSH(block.Bytes)
	}
	b, err := readKeyBy(openRegular, file+".pub")
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("its public half is neither in it nor in " + file + ".pub")
	}
	if err != nil {
		return "", err
	}
	if public := bareKey(string(b)); public != "" {
		return public, nil
	}
	return "", errors.New(file + ".pub holds no public key")
}

// publicInOpenSSH reads as much of OpenSSH's PROTOCOL.key as says which key it is:
// a magic, three strings on how it is encrypted, the number of keys, and the
// public one.
func publicInOpenSSH(b []byte) (string, error) {
	broken := errors.New("it is no OpenSSH private key")
	b, ok := bytes.CutPrefix(b, []byte("openssh-key-v1\x00"))
	for range 3 {
		if ok {
			_, b, ok = cutString(b)
		}
	}
	if !ok || len(b) < 4 {
		return "", broken
	}
	public, _, ok := cutString(b[4:])
	if !ok {
		return "", broken
	}
	name, _, ok := cutString(public)
	if !ok {
		return "", broken
	}
	return string(name) + " " + base64.StdEncoding.EncodeToString(public), nil
}

// bareKey is a line of authorized_keys(5) without its comment, or "" where it is
// none.
func bareKey(line string) string {
	words := strings.Fields(line)
	if len(words) < 2 {
		return ""
	}
	blob, err := base64.StdEncoding.DecodeString(words[1])
	if err != nil || len(blob) < 4 {
		return ""
	}
	if name, _, ok := cutString(blob); !ok || string(name) != words[0] {
		return ""
	}
	return words[0] + " " + words[1]
}

// fingerprint is a public key as ssh-keygen -l shows it.
func fingerprint(key string) string {
	_, blob, _ := strings.Cut(key, " ")
	b, _ := base64.StdEncoding.DecodeString(blob)
	sum := sha256.Sum256(b)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// cutString cuts off a string as RFC 4251 section 5 writes one.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}
