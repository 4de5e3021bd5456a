package jwk

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// SetErrors is the error of ParseClientSet: everything that is wrong with a set, by the path of the parameter in it
// ("keys[0].d", "keys"; "" for the whole). It repeats nothing of the set but names of parameters.
type SetErrors []apperr.FieldError

// Error is all of the faults in one line.
func (f SetErrors) Error() string {
	texts := make([]string, 0, len(f))
	for _, fault := range f {
		texts = append(texts, strings.TrimSpace(fault.Field+" "+fault.Reason))
	}
	return "JWK set: " + strings.Join(texts, "; ")
}

// ParseClientSet reads a set that a client wants to register. It is strict, because who registers a key should learn at once
// that it cannot work: 1 to 16 keys, each a public signing key of a known kind, with use absent or sig, key_ops absent or with
// verify, alg absent or one of the key's kind, kids distinct where there are any. Parameters that nobody here knows are
// ignored (RFC 7517 §4); private ones (d, p, q, dp, dq, qi, oth, k), wherever they stand and in whatever case, private keys as
// text (PEM), and names that are repeated are refused. The error is SetErrors.
func ParseClientSet(raw []byte) ([]Key, error) {
	if len(raw) > MaxSetBytes {
		return nil, SetErrors{{Reason: fmt.Sprintf("must be at most %d bytes", MaxSetBytes)}}
	}
	members, err := membersOf(raw)
	if err != nil {
		return nil, SetErrors{{Reason: `must be an object with a list "keys"`}}
	}
	// Which of two values counts differs between parsers: what this one takes for public, another may not.
	if RepeatsName(raw) {
		return nil, SetErrors{{Reason: "must not repeat a name within an object"}}
	}
	faults := privateBeside(raw)
	if len(members) < 1 || len(members) > MaxSetKeys {
		return nil, append(faults, apperr.FieldError{Field: "keys", Reason: fmt.Sprintf("must have 1 to %d items", MaxSetKeys)})
	}
	keys := make([]Key, 0, len(members))
	seen := make(map[string]bool, len(members))
	for i, member := range members {
		key, wrong := member.key()
		wrong = append(privateIn(member), wrong...)
		path := fmt.Sprintf("keys[%d]", i)
		for _, fault := range wrong {
			fault.Field = strings.TrimSuffix(path+"."+fault.Field, ".")
			faults = append(faults, fault)
		}
		if key.ID != "" && seen[key.ID] {
			faults = append(faults, apperr.FieldError{Field: path + ".kid", Reason: "repeats an earlier one"})
		}
		seen[key.ID] = true
		keys = append(keys, key)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return keys, nil
}

// privateBeside finds what is private beside the keys, as of a key that was pasted around its set.
func privateBeside(raw []byte) SetErrors {
	var set map[string]json.RawMessage
	_ = json.Unmarshal(raw, &set) // it is well-formed: membersOf read it
	delete(set, "keys")
	return privateIn(set)
}

// ReadClientSet reads a set that was fetched from a client's URI, as ReadSet does, and refuses one of more than 64 KiB.
func ReadClientSet(raw []byte) ([]Key, error) {
	if len(raw) > MaxSetBytes {
		return nil, fmt.Errorf("read JWK set: more than %d bytes", MaxSetBytes)
	}
	return ReadSet(raw)
}

// ReadSet reads a set whose other keys may serve other purposes: those that ParseClientSet would refuse are left out, as RFC
// 7517 §5 asks, of private parameters only for those of the key itself; none left is not an error, and two may have the same
// kid. Errors: what is not JSON, or has no list "keys".
func ReadSet(raw []byte) ([]Key, error) {
	members, err := membersOf(raw)
	if err != nil {
		return nil, fmt.Errorf("read JWK set: %w", err)
	}
	keys := make([]Key, 0, len(members))
	for _, member := range members {
		if key, faults := member.key(); len(faults) == 0 && !member.private() {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

var errNoKeys = errors.New(`no list "keys" in it`)

// membersOf gives the keys of a set as they came; one that is not an object is nil.
func membersOf(raw []byte) ([]member, error) {
	var set map[string]json.RawMessage
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, errors.New("not a JSON object")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(set["keys"], &list); err != nil || list == nil {
		return nil, errNoKeys
	}
	members := make([]member, len(list))
	for i, item := range list {
		if err := json.Unmarshal(item, &members[i]); err != nil {
			members[i] = nil
		}
	}
	return members, nil
}

// wireKey is a public key as MarshalSet writes it.
type wireKey struct {
	KeyType   string `json:"kty"`
	Use       string `json:"use"`
	ID        string `json:"kid,omitempty"`
	Algorithm string `json:"alg,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
}

// MarshalSet writes keys as a JWK set, in order: kty, use (sig), kid and alg where there are any, and the public parameters,
// each in its one right spelling. A key that ReadSet would leave out is an error.
func MarshalSet(keys []Key) ([]byte, error) {
	set := struct {
		Keys []wireKey `json:"keys"`
	}{Keys: make([]wireKey, 0, len(keys))}
	for _, key := range keys {
		written, err := key.wire()
		if err != nil {
			return nil, fmt.Errorf("write JWK set: key %q: %w", key.ID, err)
		}
		set.Keys = append(set.Keys, written)
	}
	return json.Marshal(set)
}

var errUnusableKey = errors.New("not a public signing key of a known kind, or of another algorithm")

func (k Key) wire() (wireKey, error) {
	known := algorithmsOf(k.Public)
	if len(known) == 0 || (k.Algorithm != "" && !k.Fits(k.Algorithm)) {
		return wireKey{}, errUnusableKey
	}
	w := wireKey{Use: "sig", ID: k.ID, Algorithm: k.Algorithm}
	encode := base64.RawURLEncoding.EncodeToString
	switch public := k.Public.(type) {
	case *rsa.PublicKey:
		w.KeyType, w.N, w.E = "RSA", encode(public.N.Bytes()), encode(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			return wireKey{}, err
		}
		w.KeyType, w.Curve = "EC", "P-256"
		w.X, w.Y = encode(point[1:1+coordinateBytes]), encode(point[1+coordinateBytes:])
	case ed25519.PublicKey:
		if ed25519Fault(public) != "" {
			return wireKey{}, errUnusableKey
		}
		w.KeyType, w.Curve, w.X = "OKP", "Ed25519", encode(public)
	}
	return w, nil
}
