package auditlog

import (
	"bytes"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

// maxCanonicalDepth bounds how deep a text may be nested for Canonical to tell; events have two levels or three.
const maxCanonicalDepth = 64

// Canonical tells whether a payload is a leaf as it is: Leaf returns the very same bytes. It reads them once and
// allocates nothing, as a rule, so it is cheap to ask where a publisher writes events in canonical form. A yes is
// exact. A no may be wrong for objects with names outside of plain ASCII and for deep nesting: Leaf decides then.
func Canonical(payload []byte) bool {
	if len(payload) > MaxLeaf || len(payload) == 0 || payload[0] != '{' || !utf8.Valid(payload) {
		return false
	}
	s := scanner{text: payload}
	return s.value(maxCanonicalDepth) && s.at == len(payload)
}

// scanner reads canonical JSON (RFC 8785) in UTF-8. Each method reads one thing from at on and tells whether it was there
// in canonical form; where it was not, the place is of no meaning.
type scanner struct {
	text []byte
	at   int
}

// next takes one byte if it is c.
func (s *scanner) next(c byte) bool {
	if s.at >= len(s.text) || s.text[s.at] != c {
		return false
	}
	s.at++
	return true
}

func (s *scanner) value(depth int) bool {
	if s.at >= len(s.text) {
		return false
	}
	switch s.text[s.at] {
	case '{':
		return depth > 0 && s.object(depth-1)
	case '[':
		return depth > 0 && s.array(depth-1)
	case '"':
		return s.quoted()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	}
	return s.number()
}

func (s *scanner) word(word string) bool {
	end := s.at + len(word)
	if end > len(s.text) || string(s.text[s.at:end]) != word {
		return false
	}
	s.at = end
	return true
}

func (s *scanner) array(depth int) bool {
	s.at++
	if s.next(']') {
		return true
	}
	for s.value(depth) {
		if s.next(']') {
			return true
		}
		if !s.next(',') {
			return false
		}
	}
	return false
}

// object wants the names in strictly ascending order. In plain ASCII that of the bytes is that of UTF-16.
func (s *scanner) object(depth int) bool {
	s.at++
	if s.next('}') {
		return true
	}
	var last []byte
	for first := true; ; first = false {
		name, ok := s.name()
		if !ok || !first && bytes.Compare(last, name) >= 0 || !s.next(':') || !s.value(depth) {
			return false
		}
		if s.next('}') {
			return true
		}
		if !s.next(',') {
			return false
		}
		last = name
	}
}

// name reads a name of plain ASCII without any escape.
func (s *scanner) name() ([]byte, bool) {
	if !s.next('"') {
		return nil, false
	}
	for start := s.at; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			return s.text[start : s.at-1], true
		case c < ' ' || c == '\\' || c >= utf8.RuneSelf:
			return nil, false
		}
	}
	return nil, false
}

func (s *scanner) quoted() bool {
	for i := s.at + 1; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			s.at = i + 1
			return true
		case c < ' ':
			return false
		case c == '\\':
			length := canonicalEscape(s.text[i:])
			if length == 0 {
				return false
			}
			i += length - 1
		}
	}
	return false
}

// canonicalEscape is the length of the escape at the beginning of text, 0 where RFC 8785 §3.2.2.2 writes it otherwise:
// only quotes, backslashes and control characters are escaped, the latter by their short form if they have one.
func canonicalEscape(text []byte) int {
	if len(text) < 2 {
		return 0
	}
	switch text[1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return len(`\n`)
	case 'u':
		if len(text) < len(`\u001f`) || string(text[2:4]) != "00" {
			return 0
		}
		last := string(text[5:6])
		if text[4] == '0' && strings.Contains("01234567bef", last) || text[4] == '1' && strings.Contains("0123456789abcdef", last) {
			return len(`\u001f`)
		}
	}
	return 0
}

// number takes whole numbers that every double keeps by their look, and computes for others.
func (s *scanner) number() bool {
	start, simple := s.at, true
	for ; s.at < len(s.text) && isNumberByte(s.text[s.at]); s.at++ {
		simple = simple && s.text[s.at] >= '0' && s.text[s.at] <= '9'
	}
	text := s.text[start:s.at]
	if simple && len(text) > 0 && len(text) <= safeDigits && (text[0] != '0' || len(text) == 1) {
		return true
	}
	value, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return false
	}
	written, err := jcs.NumberToJSON(value)
	return err == nil && written == string(text) && exactNumber(written)
}

// Fields are the fields of a leaf, in their order: each name without its quotes, and each value, both as they are
// written. A name that has an escape keeps it.
func Fields(leaf []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for at := 1; at < len(leaf) && leaf[at] == '"'; {
			colon := endOfString(leaf, at)
			end := endOfValue(leaf, colon+1)
			if !yield(leaf[at+1:colon-1], leaf[colon+1:end:end]) {
				return
			}
			at = end + 1 // past the comma
		}
	}
}

// endOfValue is the place after the value that begins at start.
func endOfValue(leaf []byte, start int) int {
	depth := 0
	for i := start; i < len(leaf); {
		switch leaf[i] {
		case '"':
			i = endOfString(leaf, i)
			continue
		case '{', '[':
			depth++
		case ',':
			if depth == 0 {
				return i
			}
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		}
		i++
	}
	return len(leaf)
}
