package jwk

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// privateParameters are those of RFC 7518 §6.2.2, §6.3.2 and §6.4 and RFC 8037 §2 that hold or derive from a secret. They are
// looked for whatever the kty says.
func privateParameters() []string {
	return []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
}

// privatePEM is in the label of every private key in PEM (RFC 7468), of whatever kind.
const privatePEM = "PRIVATE KEY"

// private tells whether the key has a private parameter. Of a key that somebody publishes, other members are anybody's.
func (m member) private() bool { return slices.ContainsFunc(privateParameters(), m.has) }

// privateIn lists what is private in what somebody wants to register, a key or what stands beside the keys, in whatever case
// and however deep: a key that was wrapped or written by other rules has left the machine as well. A parameter is told by its
// right name: the names around it are anybody's, and may be secret.
func privateIn(object map[string]json.RawMessage) []apperr.FieldError {
	var faults apperr.Fields
	found := privateFinds{parameters: map[string]bool{}}
	for name, value := range object {
		found.name(name)
		found.value(json.NewDecoder(bytes.NewReader(value)))
	}
	for _, name := range privateParameters() {
		if found.parameters[name] {
			faults.Add(name, "is private key material: register the public key only")
		}
	}
	if found.pem {
		faults.Add("", "has the text of a private key in it: register the public key only")
	}
	return faults.All()
}

// privateFinds are the private parameters that were found, and whether any text was of a private key.
type privateFinds struct {
	parameters map[string]bool
	pem        bool
}

func (f *privateFinds) name(name string) {
	f.text(name)
	for _, private := range privateParameters() {
		if strings.EqualFold(name, private) {
			f.parameters[private] = true
		}
	}
}

func (f *privateFinds) text(text string) { f.pem = f.pem || strings.Contains(text, privatePEM) }

// value looks through a value that is known to be well-formed.
func (f *privateFinds) value(dec *json.Decoder) {
	token, _ := dec.Token()
	if text, ok := token.(string); ok {
		f.text(text)
	}
	opening, nested := token.(json.Delim)
	if !nested {
		return
	}
	for dec.More() {
		if opening == '{' {
			name, _ := dec.Token()
			text, _ := name.(string)
			f.name(text)
		}
		f.value(dec)
	}
	_, _ = dec.Token() // the closing bracket
}
