package auditlog

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// The key types of signed-note that this package knows.
const (
	algEd25519     = 0x01
	algCosignature = 0x04
)

const timestampBytes = 8

var errKey = errors.New("not a key of this kind")

// GenerateKey makes a log's key pair, both in the text form of signed-note: the secret one begins with
// PRIVATE+KEY. The name of the key is the origin of the log.
func GenerateKey(random io.Reader, origin string) (secret, public string, err error) {
	return generate(random, origin)
}

// GenerateWitnessKey makes a witness's key pair. The secret one has the form of GenerateKey's; the public
// one has the key type of a cosignature, so that nobody takes a cosignature for a log's signature.
func GenerateWitnessKey(random io.Reader, name string) (secret, public string, err error) {
	secret, _, err = generate(random, name)
	if err != nil {
		return "", "", err
	}
	cosigner, err := NewCosigner(secret, time.Now)
	if err != nil {
		return "", "", err
	}
	return secret, cosigner.PublicKey(), nil
}

func generate(random io.Reader, name string) (secret, public string, err error) {
	secret, public, err = note.GenerateKey(random, name)
	if err != nil {
		return "", "", err
	}
	if _, err := note.NewVerifier(public); err != nil {
		return "", "", fmt.Errorf("the name %q must be text without spaces and plus signs: %w", name, err)
	}
	return secret, public, nil
}

// PublicKey is the public text form of a log's secret key.
func PublicKey(secret string) (string, error) {
	name, key, err := secretKey(secret)
	if err != nil {
		return "", err
	}
	return note.NewEd25519VerifierKey(name, key.Public().(ed25519.PublicKey)) //nolint:forcetypeassert // Public says so
}

// Cosigner signs checkpoints as a witness does (C2SP tlog-cosignature, cosignature/v1): the signature
// covers the time it was made as well, in whole seconds.
type Cosigner struct {
	name string
	key  ed25519.PrivateKey
	now  func() time.Time
}

var _ note.Signer = (*Cosigner)(nil)

// NewCosigner reads a secret key as GenerateWitnessKey makes it.
func NewCosigner(secret string, now func() time.Time) (*Cosigner, error) {
	name, key, err := secretKey(secret)
	if err != nil {
		return nil, err
	}
	return &Cosigner{name: name, key: key, now: now}, nil
}

func secretKey(text string) (string, ed25519.PrivateKey, error) {
	signer, err := note.NewSigner(text) // checks everything about the form
	if err != nil {
		return "", nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(text, "+", 5)[4]) // PRIVATE, KEY, name, hash, key
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return "", nil, errKey
	}
	return signer.Name(), ed25519.NewKeyFromSeed(raw[1:]), nil
}

// Name is the witness's name.
func (c *Cosigner) Name() string { return c.name }

// KeyHash is the key's id in signatures.
func (c *Cosigner) KeyHash() uint32 { return keyHash(c.name, c.publicKey()) }

// PublicKey is the text form of the key that checks the cosignatures.
func (c *Cosigner) PublicKey() string {
	return fmt.Sprintf("%s+%08x+%s", c.name, c.KeyHash(), base64.StdEncoding.EncodeToString(c.publicKey()))
}

func (c *Cosigner) publicKey() []byte {
	return append([]byte{algCosignature}, c.key.Public().(ed25519.PublicKey)...) //nolint:forcetypeassert // Public says so
}

// Sign signs the text of a checkpoint with the present time.
func (c *Cosigner) Sign(text []byte) ([]byte, error) {
	at := uint64(c.now().Unix()) //nolint:gosec // after 1970
	return append(binary.BigEndian.AppendUint64(nil, at), ed25519.Sign(c.key, cosigned(at, text))...), nil
}

// SignatureLine signs the text of a note and gives the one line of it, as the answer of a witness holds it.
func SignatureLine(text string, signer note.Signer) ([]byte, error) {
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return nil, err
	}
	return signed[len(text)+1:], nil
}

type cosignatureVerifier struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

// NewCosignatureVerifier reads a witness's public key. One of the plain Ed25519 type is taken as well,
// and checks cosignatures all the same.
func NewCosignatureVerifier(public string) (note.Verifier, error) {
	parts := strings.SplitN(public, "+", 3) // name, hash, key: base64 may hold a plus as well
	if len(parts) != 3 {
		return nil, errKey
	}
	name := parts[0]
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || name == "" {
		return nil, errKey
	}
	if fmt.Sprintf("%08x", keyHash(name, raw)) != parts[1] || raw[0] != algCosignature && raw[0] != algEd25519 {
		return nil, errKey
	}
	raw[0] = algCosignature
	return &cosignatureVerifier{name: name, hash: keyHash(name, raw), key: raw[1:]}, nil
}

func (v *cosignatureVerifier) Name() string    { return v.name }
func (v *cosignatureVerifier) KeyHash() uint32 { return v.hash }

// Verify checks a cosignature over the text of a checkpoint. It does not judge the time in it.
func (v *cosignatureVerifier) Verify(text, sig []byte) bool {
	if len(sig) != timestampBytes+ed25519.SignatureSize {
		return false
	}
	return ed25519.Verify(v.key, cosigned(binary.BigEndian.Uint64(sig), text), sig[timestampBytes:])
}

// CosignedAt is the time in a cosignature. It means nothing before the signature is checked.
func CosignedAt(sig note.Signature) (time.Time, error) {
	raw, err := base64.StdEncoding.DecodeString(sig.Base64)
	if err != nil || len(raw) != 4+timestampBytes+ed25519.SignatureSize {
		return time.Time{}, errors.New("not a cosignature")
	}
	return time.Unix(int64(binary.BigEndian.Uint64(raw[4:])), 0).UTC(), nil //nolint:gosec // a time past 2^63 is nobody's
}

func cosigned(at uint64, text []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "cosignature/v1\ntime %d\n", at)
	b.Write(text)
	return b.Bytes()
}

// keyHash is the first 32 bits of SHA-256(name ‖ newline ‖ type ‖ key), as signed-note has it.
func keyHash(name string, typedKey []byte) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n"), typedKey...))
	return binary.BigEndian.Uint32(sum[:])
}
