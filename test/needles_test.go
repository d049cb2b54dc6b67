package test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"
)

// A needle is one form of a secret, to be looked for wherever it must not be.
type needle struct {
	Kind  string // of the secret, such as "refresh token"
	Form  string // such as "hex"
	Bytes []byte
}

// shortest is how much of a secret is enough to be found.
const shortest = 16

// needles are the forms in which a secret may lie somewhere.
func needles(kind, secret string) []needle {
	s := []byte(secret)
	if len(s) < shortest {
		panic("a secret that is too short to be looked for: " + kind)
	}
	all := []needle{{kind, "plain", s}}
	add := func(form string, b []byte) { all = append(all, needle{kind, form, b}) }
	for i := 0; i+2*shortest <= len(s); i = len(s) - len(s)/2 {
		if i > 0 {
			add("second half", s[i:])
			break
		}
		add("first half", s[:len(s)/2])
	}
	backwards := slices.Clone(s)
	slices.Reverse(backwards)
	add("reversed", backwards)
	add("hex", []byte(hex.EncodeToString(s)))
	add("HEX", bytes.ToUpper([]byte(hex.EncodeToString(s))))
	for _, enc := range []struct {
		name string
		*base64.Encoding
	}{{"base64", base64.RawStdEncoding}, {"base64url", base64.RawURLEncoding}} {
		for before := range 3 {
			// What depends on the neighbours is cut off.
			text := enc.EncodeToString(append(make([]byte, before), s...))
			text = text[(before*8+5)/6 : (before+len(s))*8/6]
			if !slices.ContainsFunc(all, func(n needle) bool { return string(n.Bytes) == text }) {
				add(fmt.Sprintf("%s at %d", enc.name, before), []byte(text))
			}
		}
	}
	var percent, escaped strings.Builder
	for _, c := range s {
		fmt.Fprintf(&percent, "%%%02X", c)
		fmt.Fprintf(&escaped, `\u%04x`, c)
	}
	add("percent", []byte(percent.String()))
	add("percent, small", bytes.ToLower([]byte(percent.String())))
	add("JSON escapes", []byte(escaped.String()))
	var wide []byte
	for _, u := range utf16.Encode([]rune(secret)) {
		wide = binary.LittleEndian.AppendUint16(wide, u)
	}
	add("UTF-16", wide)
	return all
}

// A haystack finds needles in one pass, however many there are.
type haystack struct {
	seen [1 << 16]bool // of the 16 bits that the first 8 bytes of a needle come to
	by   map[uint64][]int
	all  []needle
}

func newHaystack(all []needle) *haystack {
	h := &haystack{by: make(map[uint64][]int), all: all}
	for i, n := range all {
		first := binary.LittleEndian.Uint64(n.Bytes)
		h.seen[mix(first)] = true
		h.by[first] = append(h.by[first], i)
	}
	return h
}

func mix(first uint64) uint16 { return uint16(first * 0x9e3779b97f4a7c15 >> 48) }

// find calls found with the index of each needle in data, as often as it is
// there.
func (h *haystack) find(data []byte, found func(i, at int)) {
	for at := 0; at+8 <= len(data); at++ {
		first := binary.LittleEndian.Uint64(data[at:])
		if !h.seen[mix(first)] {
			continue
		}
		for _, i := range h.by[first] {
			if bytes.HasPrefix(data[at:], h.all[i].Bytes) {
				found(i, at)
			}
		}
	}
}

// matches counts what is found by place, kind and form.
type matches map[string]int

func (m matches) in(place string, h *haystack, data []byte) {
	h.find(data, func(i, _ int) { m[place+": "+h.all[i].Kind+", "+h.all[i].Form]++ })
}

// inTree looks through every file below dir, and at the names of all.
func (m matches) inTree(h *haystack, dir string, skip func(path string) bool) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || skip(path) {
			return err
		}
		m.in("name of a file", h, []byte(path))
		if !e.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		m.in(path, h, data)
		return err
	})
}
