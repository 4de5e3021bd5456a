package auditlog

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// What C2SP tlog-witness fixes of the conversation between a log and a witness.
const (
	// AddCheckpointPath is where a witness takes checkpoints, below its base URL.
	AddCheckpointPath = "/add-checkpoint"
	// SizeType is the content type of a 409 that tells the tree size which the witness signed last.
	SizeType = "text/x.tlog.size"

	maxProof = 63
)

// AddCheckpoint asks a witness to cosign: that the tree of Old leaves, which it signed last (0 if it never
// did), is the beginning of that of the signed checkpoint.
type AddCheckpoint struct {
	Old        int64
	Proof      []tlog.Hash // RFC 6962 §2.1.2; empty if Old is 0 or the size of the checkpoint
	Checkpoint []byte
}

var errAddCheckpoint = errors.New("not a request to cosign a checkpoint")

// Encode is the body of the request.
func (a AddCheckpoint) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", a.Old)
	for _, hash := range a.Proof {
		fmt.Fprintln(&b, hash)
	}
	b.WriteByte('\n')
	b.Write(a.Checkpoint)
	return b.Bytes()
}

// ParseAddCheckpoint reads the body of a request. The checkpoint in it is still to be opened.
func ParseAddCheckpoint(body []byte) (AddCheckpoint, error) {
	head, checkpoint, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return AddCheckpoint{}, errAddCheckpoint
	}
	lines := strings.Split(string(head), "\n")
	size, is := strings.CutPrefix(lines[0], "old ")
	old, ok := parseSize(size)
	if !is || !ok || len(lines) > 1+maxProof {
		return AddCheckpoint{}, errAddCheckpoint
	}
	request := AddCheckpoint{Old: old, Checkpoint: checkpoint}
	for _, line := range lines[1:] {
		hash, err := tlog.ParseHash(line)
		if err != nil || hash.String() != line { // base64 is read past a carriage return
			return AddCheckpoint{}, errAddCheckpoint
		}
		request.Proof = append(request.Proof, hash)
	}
	return request, nil
}
