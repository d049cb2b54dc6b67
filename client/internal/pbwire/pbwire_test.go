package pbwire

import (
	"encoding/hex"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type kind int32

type sub struct {
	Text string `pb:"1"`
	Data []byte `pb:"2"`
}

// message has a field of every type.
type message struct {
	Flag      bool            `pb:"1"`
	Small     int32           `pb:"2"`
	Large     int64           `pb:"3"`
	Text      string          `pb:"4"`
	Data      []byte          `pb:"5"`
	Kind      kind            `pb:"6"`
	Sub       sub             `pb:"7"`
	For       time.Duration   `pb:"8"`
	At        time.Time       `pb:"9"`
	Flags     []bool          `pb:"10"`
	Numbers   []int64         `pb:"11"`
	Texts     []string        `pb:"12"`
	Subs      []sub           `pb:"13"`
	Fors      []time.Duration `pb:"14"`
	OneSub    *sub            `pb:"15,one"`
	OneData   []byte          `pb:"16,one"`
	OneNumber *int32          `pb:"17,one"`
	OneFor    *time.Duration  `pb:"536870911,one"`
}

func wire(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each row is written as it is read.
func TestWire(t *testing.T) {
	for _, test := range []struct {
		name, wire string
		m          message
	}{
		{"nothing", "", message{}},
		{"true", "0801", message{Flag: true}},
		{"negative int32", "10 ffffffffffffffffff01", message{Small: -1}},
		{"largest int64", "18 ffffffffffffffff7f", message{Large: math.MaxInt64}},
		{"string", "22 02 c3a9", message{Text: "é"}},
		{"bytes", "2a 02 ff00", message{Data: []byte{0xff, 0}}},
		{"enum", "30 07", message{Kind: 7}},
		{"struct", "3a 03 0a0161", message{Sub: sub{Text: "a"}}},
		{"duration", "42 04 0801 1002", message{For: time.Second + 2}},
		{"negative duration", "42 16 08ffffffffffffffffff01 10feffffffffffffffff01", message{For: -time.Second - 2}},
		{"time", "4a 04 0801 1002", message{At: time.Unix(1, 2).UTC()}},
		{"epoch", "4a 00", message{At: time.Unix(0, 0).UTC()}},
		{"list of bools", "5001 5000", message{Flags: []bool{true, false}}},
		{"list of integers", "5801 5800", message{Numbers: []int64{1, 0}}},
		{"list of strings", "6200 620161", message{Texts: []string{"", "a"}}},
		{"list of structs", "6a00 6a03 120162", message{Subs: []sub{{}, {Data: []byte("b")}}}},
		{"list of durations", "7200 7202 0801", message{Fors: []time.Duration{0, time.Second}}},
		{"empty struct as alternative", "7a00", message{OneSub: &sub{}}},
		{"empty bytes as alternative", "820100", message{OneData: []byte{}}},
		{"zero as alternative", "880100", message{OneNumber: new(int32)}},
		{"highest number", "faffffff0f 02 0801", message{OneFor: new(time.Second)}},
	} {
		got := message{Text: "of before", OneSub: &sub{Text: "of before"}}
		if err := Unmarshal(wire(t, test.wire), &got); err != nil {
			t.Errorf("%s: reading: %v", test.name, err)
		}
		if diff := cmp.Diff(test.m, got); diff != "" {
			t.Errorf("%s: reading: %s", test.name, diff)
		}
		b, err := Marshal(&test.m)
		if err != nil || hex.EncodeToString(b) != strings.ReplaceAll(test.wire, " ", "") {
			t.Errorf("%s: writing: %x, %v", test.name, b, err)
		}
	}
}

func TestTimesAreInUTC(t *testing.T) {
	var m message
	if err := Unmarshal(wire(t, "4a020801"), &m); err != nil || m.At.Location() != time.UTC {
		t.Errorf("in %v, %v", m.At.Location(), err)
	}
}

// What others may write though Marshal does not.
func TestUnmarshal(t *testing.T) {
	for _, test := range []struct {
		name, wire string
		m          message
	}{
		{"zero fields", "0800 1000 1800 2200 2a00 3000 3a00 4200", message{}},
		{"the last of several", "1001 1002", message{Small: 2}},
		{"structs are merged", "3a030a0161 3a03120162", message{Sub: sub{Text: "a", Data: []byte("b")}}},
		{"an alternative is merged", "7a030a0161 7a03120162", message{OneSub: &sub{Text: "a", Data: []byte("b")}}},
		{"the last of several alternatives", "7a00 880105 82010161", message{OneData: []byte("a")}},
		{"packed", "5a 03 01 8001 5202 0100", message{Numbers: []int64{1, 128}, Flags: []bool{true, false}}},
		{"packed and not", "5801 5a0102 5a00", message{Numbers: []int64{1, 2}}},
		{"a longer varint than needed", "10 818000", message{Small: 1}},
		{"an int32 of more than 32 bits", "10 8180808010", message{Small: 1}},
		{"unknown fields", "a00601 a1060102030405060708 a20601ff a50601020304 3a06 a00601 0a0161", message{Sub: sub{Text: "a"}}},
	} {
		var got message
		if err := Unmarshal(wire(t, test.wire), &got); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(test.m, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	const malformed = "reading message: it is malformed"
	for _, test := range []struct{ name, wire, want string }{
		{"half a key", "80", malformed},
		{"a key of 65 bits", "ffffffffffffffffff7f", malformed},
		{"number 0", "0001", malformed},
		{"number 2^29", "808080801001", malformed},
		{"a key alone", "08", malformed},
		{"half a varint", "1080", malformed},
		{"a varint of 65 bits", "18 ffffffffffffffffff02", malformed},
		{"bytes that are short", "2a0261", malformed},
		{"bytes longer than memory", "2a ffffffffffffffffff01 61", malformed},
		{"a half unknown field", "a206", malformed},
		{"short fixed64", "a10600000000000000", malformed},
		{"short fixed32", "a506000000", malformed},
		{"a group", "a306 a406", malformed},
		{"wire type 7", "a706", malformed},
		{"a malformed struct", "3a0108", "reading message: Sub: it is malformed"},
		{"a malformed duration", "420108", "reading message: For: it is malformed"},
		{"a malformed time", "4a0108", "reading message: At: it is malformed"},
		{"a malformed packed list", "5a0180", "reading message: Numbers: it is malformed"},
		{"a string that is not UTF-8", "2201ff", "reading message: Text: it is not UTF-8"},
		{"one in a list", "6201ff", "reading message: Texts: it is not UTF-8"},
		{"bytes for a varint", "0a00", "reading message: Flag: it comes as wire type 2"},
		{"fixed64 for a varint", "19 0000000000000000", "reading message: Large: it comes as wire type 1"},
		{"fixed32 in a list", "5d 00000000", "reading message: Numbers: it comes as wire type 5"},
		{"a varint for a string", "2000", "reading message: Text: it comes as wire type 0"},
		{"a varint for a struct", "3800", "reading message: Sub: it comes as wire type 0"},
		{"a varint for a duration", "4000", "reading message: For: it comes as wire type 0"},
		{"fixed64 for a duration", "41 0000000000000000", "reading message: For: it comes as wire type 1"},
		{"a duration of 293 years", "4206 08 c49bd7af22", "reading message: For: it is out of range"},
		{"a second of nanoseconds", "4206 10 80 94ebdc03", "reading message: For: it is out of range"},
	} {
		err := Unmarshal(wire(t, test.wire), &message{})
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestMarshalRefusesWhatIsNotUTF8(t *testing.T) {
	for want, m := range map[string]message{
		"writing message: Text: it is not UTF-8":       {Text: "CANARY\xff"},
		"writing message: Texts: it is not UTF-8":      {Texts: []string{"CANARY\xff", "a"}},
		"writing message: Subs: Text: it is not UTF-8": {Subs: []sub{{Text: "CANARY\xff"}, {}}},
	} {
		if b, err := Marshal(&m); b != nil || err == nil || err.Error() != want {
			t.Errorf("%x, %v, want %s", b, err, want)
		}
	}
}

func TestStructsWithoutNumbers(t *testing.T) {
	defer func() {
		if got := recover(); got != "pbwire: no number in the tag of Name" {
			t.Errorf("panic is %v", got)
		}
	}()
	_, _ = Marshal(&struct{ Name string }{})
	t.Error("no panic")
}

// What can be read is written, and read again, as the same.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{
		"0801 10ffffffffffffffffff01 18ffffffffffffffff7f 2202c3a9 2a02ff00 3007 3a030a0161 420408011002 4a0408011002",
		"5001 5000 5801 5a0102 6200 620161 6a00 6a03120162 7200 72020801",
		"7a00 820100 880100 faffffff0f020801",
		"a00601 a1060102030405060708 a20601ff a50601020304 3a06a006010a0161",
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var first, second message
		if Unmarshal(b, &first) != nil {
			return
		}
		once, err := Marshal(&first)
		if err != nil {
			t.Fatal(err)
		}
		if err := Unmarshal(once, &second); err != nil {
			t.Fatalf("%x: %v", once, err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Error(diff)
		}
		if twice, err := Marshal(&second); err != nil || string(twice) != string(once) {
			t.Errorf("%x, then %x, %v", once, twice, err)
		}
	})
}
