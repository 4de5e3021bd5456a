package agent

import (
	"strconv"
	"strings"
)

// Precondition is a parsed If-Match (RFC 9110 §13.1.1).
type Precondition struct {
	any  bool
	tags []string
}

// ETag is the entity tag of an agent's revision, a strong one: `"7"`.
func ETag(revision int64) string {
	return `"` + strconv.FormatInt(revision, 10) + `"`
}

// ParsePrecondition reads the If-Match header lines of a request, nil if there are none. What is not a strong
// entity tag, a weak tag among them, matches nothing, because If-Match compares strongly; so a malformed header
// refuses the change rather than letting it through.
func ParsePrecondition(lines []string) *Precondition {
	if len(lines) == 0 {
		return nil
	}
	p := &Precondition{}
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			item = strings.Trim(item, " \t")
			if item == "*" {
				p.any = true
				continue
			}
			p.tags = append(p.tags, item)
		}
	}
	// "*" stands alone; in company it is not a list that RFC 9110 knows.
	if len(p.tags) > 0 {
		p.any = false
	}
	return p
}

// Holds reports whether the precondition is met by an agent of this revision.
func (p *Precondition) Holds(revision int64) bool {
	if p.any {
		return true
	}
	current := ETag(revision)
	for _, tag := range p.tags {
		if tag == current {
			return true
		}
	}
	return false
}
