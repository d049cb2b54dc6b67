package main

import (
	"os"
	"strings"

	"golang.org/x/term"
	"rsc.io/qr"
)

// quiet is the width of the white border that a reader of QR codes needs, in
// modules (ISO/IEC 18004).
const quiet = 4

// besides is how many lines of a terminal are kept for what is written around
// the QR code.
const besides = 9

// qrCode draws text for a terminal, two modules a character, black on white
// whatever the terminal's own colours. It is empty where the terminal f is too
// small, or cannot show it.
func qrCode(f *os.File, text string) string {
	if !colours() || !utf8Locale() {
		return ""
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return ""
	}
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return ""
	}
	side := code.Size + 2*quiet
	if side > width || (side+1)/2+besides > height {
		return ""
	}
	return halfBlocks(code)
}

// halfBlocks draws code with its border. Colours are those of the fixed part of
// the 256, black and white in every theme.
func halfBlocks(code *qr.Code) string {
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString("\x1b[38;5;16;48;5;231m")
		for x := -quiet; x < code.Size+quiet; x++ {
			// Black is false outside of the code.
			switch top, bottom := code.Black(x, y), code.Black(x, y+1); {
			case top && bottom:
				b.WriteRune('█')
			case top:
				b.WriteRune('▀')
			case bottom:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String()
}

// utf8Locale reports whether the locale's characters are UTF-8, by the first
// variable that names one (POSIX).
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToUpper(os.Getenv(name)); v != "" {
			return strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8")
		}
	}
	return false
}
