package jwk

import (
	"bytes"
	"encoding/json"
)

// words are what is written in JSON values, however deep.
type words struct {
	names, texts []string
	repeats      bool // an object has a name twice
}

// RepeatsName reports whether an object in the JSON value has a name twice, which RFC 7515 §4 and RFC 7519 §4 leave it to the
// reader to refuse. The value must be known to be well-formed.
func RepeatsName(raw []byte) bool {
	var found words
	found.read(json.NewDecoder(bytes.NewReader(raw)))
	return found.repeats
}

// read adds the words of a value that is known to be well-formed.
func (w *words) read(dec *json.Decoder) {
	token, _ := dec.Token()
	if text, ok := token.(string); ok {
		w.texts = append(w.texts, text)
	}
	opening, nested := token.(json.Delim)
	if !nested {
		return
	}
	seen := map[string]bool{}
	for dec.More() {
		if opening == '{' {
			token, _ := dec.Token()
			name, _ := token.(string)
			w.names = append(w.names, name)
			w.repeats = w.repeats || seen[name]
			seen[name] = true
		}
		w.read(dec)
	}
	_, _ = dec.Token() // the closing bracket
}
