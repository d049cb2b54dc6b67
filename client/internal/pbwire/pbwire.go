// Package pbwire writes and reads plain structs in the protobuf wire format.
//
// A field's tag says its number, `pb:"3"`, or its number and the oneof that it
// is an alternative of, `pb:"3,content"`. Its type is bool, int32, int64 (and
// what is made of them), string, []byte, [time.Duration] and [time.Time] (for
// google.protobuf's Duration and Timestamp), a struct, or a slice of these; an
// alternative is a pointer to one or a []byte, nil where it is not the one set.
// A map is a slice of structs with the fields 1 and 2.
//
// It is proto3: zero fields are not written, and so a struct that is no
// alternative is absent where it is zero. Lists are not packed, which every
// reader has to take; packed ones are read. Groups are not.
package pbwire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Wire types of what structs have; others are skipped.
const (
	varint = 0
	bytes  = 2
)

var (
	errMalformed = errors.New("it is malformed")
	errUTF8      = errors.New("it is not UTF-8")
)

// parts are google.protobuf.Duration and google.protobuf.Timestamp.
type parts struct {
	Seconds int64 `pb:"1"`
	Nanos   int32 `pb:"2"`
}

// tag panics for a struct that was not made for this package.
func tag(f reflect.StructField) (number uint64, oneof string) {
	text, oneof, _ := strings.Cut(f.Tag.Get("pb"), ",")
	number, err := strconv.ParseUint(text, 10, 29)
	if err != nil {
		panic("pbwire: no number in the tag of " + f.Name)
	}
	return number, oneof
}

// isVarint says whether values of t are varints, of which a list may be packed.
func isVarint(t reflect.Type) bool {
	k := t.Kind()
	return k == reflect.Bool || k == reflect.Int32 || k == reflect.Int64 && t != reflect.TypeFor[time.Duration]()
}

func isList(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8
}

// Marshal returns the struct that m points to. The only error is a string that
// is not UTF-8.
func Marshal(m any) ([]byte, error) {
	v := reflect.ValueOf(m).Elem()
	b, err := appendFields(nil, v)
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", v.Type().Name(), err)
	}
	return b, nil
}

func appendFields(b []byte, m reflect.Value) ([]byte, error) {
	for f, v := range m.Fields() {
		number, oneof := tag(f)
		var err error
		switch {
		case v.IsZero(), v.Kind() == reflect.Slice && v.Len() == 0 && oneof == "":
		case isList(f.Type):
			for i := 0; i < v.Len() && err == nil; i++ {
				b, err = appendField(b, number, v.Index(i))
			}
		default:
			b, err = appendField(b, number, reflect.Indirect(v))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return b, nil
}

// appendField appends a field even if it is zero.
func appendField(b []byte, number uint64, v reflect.Value) ([]byte, error) {
	switch t := v.Interface().(type) {
	case time.Duration:
		v = reflect.ValueOf(parts{int64(t / time.Second), int32(t % time.Second)})
	case time.Time:
		v = reflect.ValueOf(parts{t.Unix(), int32(t.Nanosecond())})
	}
	var x uint64
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			return nil, errUTF8
		}
		return appendBytes(b, number, []byte(v.String())), nil
	case reflect.Slice:
		return appendBytes(b, number, v.Bytes()), nil
	case reflect.Struct:
		inner, err := appendFields(nil, v)
		return appendBytes(b, number, inner), err
	case reflect.Bool:
		if v.Bool() {
			x = 1
		}
	default:
		x = uint64(v.Int())
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, number<<3|varint), x), nil
}

func appendBytes(b []byte, number uint64, content []byte) []byte {
	b = binary.AppendUvarint(b, number<<3|bytes)
	b = binary.AppendUvarint(b, uint64(len(content)))
	return append(b, content...)
}

// Unmarshal makes the struct that m points to what b says. Fields that it does
// not have are skipped. It keeps no part of b.
func Unmarshal(b []byte, m any) error {
	v := reflect.ValueOf(m).Elem()
	v.SetZero()
	if err := readFields(b, v); err != nil {
		return fmt.Errorf("reading %s: %w", v.Type().Name(), err)
	}
	return nil
}

func readFields(b []byte, m reflect.Value) error {
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		number, wire := key>>3, key&7
		if n <= 0 || number == 0 || number >= 1<<29 {
			return errMalformed
		}
		x, content, rest, ok := cut(b[n:], wire)
		if !ok {
			return errMalformed
		}
		b = rest
		for f, v := range m.Fields() {
			known, oneof := tag(f)
			if known != number {
				continue
			}
			// Of several alternatives of a oneof the last one counts.
			for f, v := range m.Fields() {
				if n, other := tag(f); oneof != "" && other == oneof && n != number {
					v.SetZero()
				}
			}
			if err := set(v, wire, x, content); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
			if oneof == "" && v.Kind() == reflect.Slice && v.Len() == 0 {
				v.SetZero() // only of an alternative does nil say more than empty
			}
		}
	}
	return nil
}

// cut cuts a value of a wire type off b: x is a varint, content are bytes.
func cut(b []byte, wire uint64) (x uint64, content, rest []byte, ok bool) {
	size := uint64(math.MaxUint64)
	switch wire {
	case varint, bytes:
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, nil, nil, false
		}
		b = b[n:]
		if wire == varint {
			return x, nil, b, true
		}
		size = x
	case 1: // fixed64
		size = 8
	case 5: // fixed32
		size = 4
	}
	if size > uint64(len(b)) {
		return 0, nil, nil, false
	}
	return 0, b[:size], b[size:], true
}

func set(v reflect.Value, wire, x uint64, content []byte) error {
	t := v.Type()
	switch {
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		return set(v.Elem(), wire, x, content)
	case isList(t) && isVarint(t.Elem()) && wire == bytes: // packed
		for len(content) > 0 {
			x, n := binary.Uvarint(content)
			if n <= 0 {
				return errMalformed
			}
			content = content[n:]
			if err := set(v, varint, x, nil); err != nil {
				return err
			}
		}
		return nil
	case isList(t):
		v.Set(reflect.Append(v, reflect.Zero(t.Elem())))
		return set(v.Index(v.Len()-1), wire, x, content)
	case isVarint(t) && wire != varint, !isVarint(t) && wire != bytes:
		return fmt.Errorf("it comes as wire type %d", wire)
	}
	var d parts
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		err := readFields(content, reflect.ValueOf(&d).Elem())
		// A second less than a Duration can hold, for the nanoseconds.
		const limit = math.MaxInt64/int64(time.Second) - 1
		if d.Seconds < -limit || d.Seconds > limit || d.Nanos <= -1e9 || d.Nanos >= 1e9 {
			return errors.New("it is out of range")
		}
		*p = time.Duration(d.Seconds)*time.Second + time.Duration(d.Nanos)
		return err
	case *time.Time:
		err := readFields(content, reflect.ValueOf(&d).Elem())
		*p = time.Unix(d.Seconds, int64(d.Nanos)).UTC()
		return err
	}
	switch t.Kind() {
	case reflect.Bool:
		v.SetBool(x != 0)
	case reflect.Int32:
		v.SetInt(int64(int32(x)))
	case reflect.Int64:
		v.SetInt(int64(x))
	case reflect.String:
		if !utf8.Valid(content) {
			return errUTF8
		}
		v.SetString(string(content))
	case reflect.Slice:
		v.SetBytes(append([]byte{}, content...))
	case reflect.Struct:
		return readFields(content, v)
	}
	return nil
}
