package assertion

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// readObject reads a JSON object in UTF-8 in which no object has a member twice
// (RFC 7519 §4 leaves it to the reader to refuse that): two readers must never
// see two different assertions.
func readObject(raw []byte) (members, error) {
	var object members
	if !utf8.Valid(raw) || json.Unmarshal(raw, &object) != nil || object == nil {
		return nil, errMalformed
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if !distinct(decoder) {
		return nil, errMalformed
	}
	return object, nil
}

// distinct walks through one value that is known to be valid JSON.
func distinct(decoder *json.Decoder) bool {
	token, err := decoder.Token()
	if err != nil {
		return false
	}
	switch token {
	case json.Delim('['):
		for decoder.More() {
			if !distinct(decoder) {
				return false
			}
		}
	case json.Delim('{'):
		seen := map[string]bool{}
		for decoder.More() {
			name, err := decoder.Token()
			text, ok := name.(string)
			if err != nil || !ok || seen[text] {
				return false
			}
			seen[text] = true
			if !distinct(decoder) {
				return false
			}
		}
	default:
		return true
	}
	_, err = decoder.Token() // the closing one
	return err == nil
}
