// Package auditor checks an audit trail on behalf of somebody who trusts neither the audit service nor its
// database, only the public key of the log: that every event is the one that was logged, that none was
// removed, added or moved, and that the log never shows two people, or one person twice, different pasts.
// It reads exports and public routes, keeps the last checkpoint that it believed, and writes nothing else.
// It must not ask the service for a judgement: every answer here is computed from what was signed.
package auditor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// Kind is what is wrong.
type Kind string

// What can be wrong. The first eight mean that somebody tampered, or that a backup was restored; Unproven
// means that there is not enough to tell.
const (
	Changed  Kind = "changed"  // an event is not the one that was logged
	Missing  Kind = "missing"  // an event that was logged is gone, and retention does not explain it
	Added    Kind = "added"    // an event was never logged
	Moved    Kind = "moved"    // an event stands in the place of another
	Broken   Kind = "broken"   // the hashes do not lead to the signed root
	Unsigned Kind = "unsigned" // the checkpoint is not signed by the log
	Forked   Kind = "forked"   // the log does not go on from a checkpoint that it signed before
	Rollback Kind = "rollback" // the running log is shorter than it was
	Unproven Kind = "unproven"
)

// Finding is one thing that is wrong.
type Finding struct {
	Kind      Kind   `json:"kind"`
	LeafIndex int64  `json:"leafIndex"`         // -1 where it is about the log as a whole
	Through   int64  `json:"throughLeaf"`       // the last leaf, LeafIndex where it is about one
	EventID   string `json:"eventId,omitempty"` // as the event says it
	Detail    string `json:"detail"`            // for people
}

func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s ", strings.ToUpper(string(f.Kind)))
	switch {
	case f.LeafIndex < 0:
	case f.Through > f.LeafIndex:
		fmt.Fprintf(&b, "leaves %d to %d: ", f.LeafIndex, f.Through)
	default:
		fmt.Fprintf(&b, "leaf %d: ", f.LeafIndex)
	}
	if f.EventID != "" {
		fmt.Fprintf(&b, "event %s: ", f.EventID)
	}
	b.WriteString(f.Detail)
	return b.String()
}

// Witnessed says which witness signed a checkpoint of how many leaves, and when.
type Witnessed struct {
	Name     string `json:"name"`
	At       string `json:"at"` // RFC 3339
	TreeSize int64  `json:"treeSize"`
}

// Report is what was checked and what was found.
type Report struct {
	Origin    string                `json:"origin"`
	TreeSize  int64                 `json:"treeSize"` // of the newest checkpoint that is signed
	Root      string                `json:"root"`
	Witnesses []Witnessed           `json:"witnesses"`
	Kept      int64                 `json:"keptTreeSize"` // of the checkpoint kept from before, -1 without one
	First     int64                 `json:"first"`        // leaf that the export begins with
	Whole     bool                  `json:"whole"`        // every leaf of the log was read, from the first to the last
	Filtered  bool                  `json:"filtered"`     // the export leaves events out, and nobody can tell which
	Leaves    int64                 `json:"leaves"`       // whose hash was read
	Events    int64                 `json:"events"`       // that were read and have the hash that was logged
	Dropped   []auditlog.DroppedDay `json:"dropped"`      // days that retention removed, as the service says
	Findings  []Finding             `json:"findings"`
	More      int64                 `json:"moreFindings"` // that are not listed

	kinds map[Kind]int64 // how many there are of each, listed or not
}

// maxFindings bounds what is listed of each kind; the rest is counted.
const maxFindings = 1000

func newReport() *Report {
	return &Report{Kept: -1, Witnesses: []Witnessed{}, Dropped: []auditlog.DroppedDay{}, Findings: []Finding{}, kinds: map[Kind]int64{}}
}

func (r *Report) add(f Finding) {
	if r.kinds[f.Kind]++; r.kinds[f.Kind] > maxFindings {
		r.More++
		return
	}
	r.Findings = append(r.Findings, f)
}

// found adds a finding about the log as a whole.
func (r *Report) found(kind Kind, format string, args ...any) {
	r.add(Finding{Kind: kind, LeafIndex: -1, Through: -1, Detail: fmt.Sprintf(format, args...)})
}

// has tells whether something of this kind was found, whether it is listed or not.
func (r *Report) has(kind Kind) bool { return r.kinds[kind] > 0 }

// Tampered tells whether something is wrong, beyond what could not be proven.
func (r *Report) Tampered() bool {
	for kind := range r.kinds {
		if kind != Unproven {
			return true
		}
	}
	return false
}

// Proven tells whether nothing is wrong and nothing is left open.
func (r *Report) Proven() bool { return len(r.kinds) == 0 }

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	if r.Origin != "" {
		fmt.Fprintf(&b, "log         %s\ncheckpoint  %d leaves, root %s\n", r.Origin, r.TreeSize, r.Root)
	}
	for _, seen := range r.Witnesses {
		fmt.Fprintf(&b, "witness     %s signed %d leaves at %s\n", seen.Name, seen.TreeSize, seen.At)
	}
	if r.Kept >= 0 {
		fmt.Fprintf(&b, "kept        a checkpoint of %d leaves from before\n", r.Kept)
	}
	fmt.Fprintf(&b, "read        %d leaves, %d events\n", r.Leaves, r.Events)
	for _, day := range r.Dropped {
		fmt.Fprintf(&b, "retention   %s: %d events removed, between leaves %d and %d\n", day.Day, day.Events, day.FirstLeaf, day.LastLeaf)
	}
	for _, f := range r.Findings {
		fmt.Fprintln(&b, f)
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "and %d findings more\n", r.More)
	}
	switch {
	case r.Proven() && r.Filtered:
		b.WriteString("OK: what was read is what was logged. It is a filtered export: nobody can tell from it what it leaves out.\n")
	case r.Proven() && !r.Whole:
		b.WriteString("OK: what was read is what was logged. It is not the whole log.\n")
	case r.Proven():
		b.WriteString("OK: everything that was read is what was logged.\n")
	case r.Tampered():
		b.WriteString("NOT OK: this is not what was logged.\n")
	default:
		b.WriteString("NOT PROVEN: nothing wrong was found, and not everything could be checked.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
