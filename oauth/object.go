package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

const maxDepth = 16

var byteOrderMark = []byte("\xef\xbb\xbf")

// decodeObject reads data as one JSON object: valid UTF-8, nothing after it, no
// name twice, at most maxDepth deep. (encoding/json alone takes the last of two
// names and ignores case.) Beside an error it gives the members that it could
// read nevertheless, because one of them may be a refresh token that exists
// nowhere else; of two equal names the last.
func decodeObject(data []byte) (map[string]any, error) {
	var problem error
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		problem = errors.New("the answer is empty")
	case bytes.HasPrefix(data, byteOrderMark):
		data = bytes.TrimPrefix(data, byteOrderMark)
		problem = errors.New("the answer begins with a byte order mark")
	case !utf8.Valid(data):
		problem = errors.New("the answer is not UTF-8")
	case !json.Valid(data):
		problem = errors.New("the answer is not JSON")
	}
	d := objectDecoder{json: json.NewDecoder(bytes.NewReader(data))}
	d.json.UseNumber()
	members := make(map[string]any)
	if t, err := d.json.Token(); err != nil || t != json.Delim('{') {
		d.problem = errors.New("the answer is not a JSON object")
	} else {
		_ = d.object(members, 1)
	}
	if problem == nil {
		problem = d.problem
	}
	return members, problem
}

type objectDecoder struct {
	json    *json.Decoder
	problem error // the first of those that do not stop the reading
}

// object reads into members what follows a '{'.
func (d *objectDecoder) object(members map[string]any, depth int) error {
	for d.json.More() {
		t, err := d.json.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return errors.New("a name that is not a string")
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return err
		}
		if _, ok := members[name]; ok && d.problem == nil {
			d.problem = errors.New("the answer has a name twice")
		}
		members[name] = v
	}
	_, err := d.json.Token()
	return err
}

func (d *objectDecoder) value(depth int) (any, error) {
	if depth > maxDepth+1 {
		return nil, d.json.Decode(new(json.RawMessage))
	}
	t, err := d.json.Token()
	if err != nil {
		return nil, err
	}
	if _, nested := t.(json.Delim); nested && depth > maxDepth && d.problem == nil {
		d.problem = errors.New("the answer is nested too deeply")
	}
	switch t {
	case json.Delim('{'):
		members := make(map[string]any)
		return members, d.object(members, depth)
	case json.Delim('['):
		list := []any{}
		for d.json.More() {
			v, err := d.value(depth + 1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.json.Token()
		return list, err
	}
	return t, nil
}
