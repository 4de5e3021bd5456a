package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// maxAnswer bounds what is read of a witness's answer.
const maxAnswer = 16 << 10

// Peer is a witness: the key that checks its cosignatures, and where it is.
type Peer struct {
	Key      string // as given; names the witness in the store
	Verifier note.Verifier
	URL      string // add-checkpoint is below it
}

// ParsePeer reads a witness of the form <public key>@<URL>.
func ParsePeer(text string) (Peer, error) {
	at := max(strings.LastIndex(text, "@https://"), strings.LastIndex(text, "@http://"))
	if at < 0 {
		return Peer{}, errors.New("a witness is <public key>@<URL>")
	}
	key, address := text[:at], text[at+1:]
	verifier, err := auditlog.NewCosignatureVerifier(key)
	if err != nil {
		return Peer{}, errors.New("the key of a witness is not one, as agentidp audit keygen --witness prints it")
	}
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" || parsed.RawQuery != "" || parsed.Fragment != "" {
		return Peer{}, fmt.Errorf("the URL of the witness %s is not one", verifier.Name())
	}
	return Peer{Key: key, Verifier: verifier, URL: strings.TrimRight(address, "/")}, nil
}

// behindError is a witness's answer that it signed another size last.
type behindError struct{ size int64 }

func (e *behindError) Error() string { return fmt.Sprintf("the witness signed %d leaves last", e.size) }

// errForked is a witness's answer that the log it signed last is not the beginning of ours.
var errForked = errors.New("the witness saw another past of the log")

// errOutpaced means that the witness signed a newer head of the log than was to be shown to it.
var errOutpaced = errors.New("the log has gone on")

// ask submits a checkpoint and returns the witness's signature line, checked.
func (p Peer) ask(ctx context.Context, client *http.Client, request auditlog.AddCheckpoint, log note.Verifier) ([]byte, error) {
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL+auditlog.AddCheckpointPath, bytes.NewReader(request.Encode()))
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(post)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	switch answer.StatusCode {
	case http.StatusOK:
		return p.line(body, request.Checkpoint, log)
	case http.StatusConflict:
		return nil, conflict(answer.Header.Get("Content-Type"), body, request.Old)
	case http.StatusUnprocessableEntity:
		return nil, errForked
	}
	return nil, fmt.Errorf("the witness answers %d", answer.StatusCode)
}

// conflict is what a witness means by 409: where it says another size than the old one that it was shown, it goes on
// from there; where it says none, or that very size, it signed another root of it.
func conflict(contentType string, body []byte, old int64) error {
	if kind, _, err := mime.ParseMediaType(contentType); err != nil || kind != auditlog.SizeType {
		return errForked
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(body)), 10, 64)
	switch {
	case err != nil || size < 0:
		return errors.New("the witness answers 409 without a size")
	case size == old:
		return errForked
	}
	return &behindError{size: size}
}

// line finds the witness's own signature among the lines of its answer.
func (p Peer) line(body, checkpoint []byte, log note.Verifier) ([]byte, error) {
	for raw := range bytes.Lines(body) {
		if p.signs(checkpoint, raw, log) {
			return bytes.Clone(raw), nil
		}
	}
	return nil, errors.New("the witness answers without a signature of its key")
}

// signs tells whether a line is the witness's signature of this very checkpoint of the log.
func (p Peer) signs(checkpoint, line []byte, log note.Verifier) bool {
	_, opened, err := auditlog.Open(slices.Concat(checkpoint, line), log, p.Verifier)
	return err == nil && auditlog.SignedBy(opened, p.Verifier)
}
