package httpx

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

const (
	reasonUUID = "must be a UUID in lower case"
	reasonTime = "must be an RFC 3339 time or a date such as 2026-01-31"
)

// ParseUUID accepts a UUID only as we write it: lower case, with hyphens, and
// nothing around it.
func ParseUUID(s string) (uuid.UUID, bool) {
	id, err := uuid.Parse(s)
	return id, err == nil && id.String() == s
}

// Input reads a request: the ids in its path, the parameters of its query and
// its JSON body. It collects all that is wrong with them, so that one answer
// names it all. It is not safe for concurrent use.
type Input struct {
	c      *gin.Context
	query  url.Values
	known  map[string]bool
	path   apperr.Fields
	fields apperr.Fields
	// refused is why the body was not looked at.
	refused error
}

// NewInput reads the request's query string. A parameter is known if a method
// asks for it before Err; others are errors, and so is any that is given twice.
func NewInput(c *gin.Context) *Input {
	in := &Input{c: c, known: map[string]bool{}}
	query, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		in.Fail("query", "is not a valid query string")
	}
	in.query = query
	return in
}

// PathUUID is the path parameter of this name; uuid.Nil if it is no UUID in
// lower-case canonical form.
func (in *Input) PathUUID(name string) uuid.UUID {
	id, ok := ParseUUID(in.c.Param(name))
	if !ok {
		in.path.Add(name, reasonUUID)
		return uuid.Nil
	}
	return id
}

// get is the parameter's value; false if it is absent, or repeated (which Err reports).
func (in *Input) get(name string) (string, bool) {
	in.known[name] = true
	if given := in.query[name]; len(given) == 1 {
		return given[0], true
	}
	return "", false
}

// Text is a parameter of 1 to longest characters (see apperr.CheckText); nil if absent or wrong.
func (in *Input) Text(name string, longest int) *string {
	value, ok := in.get(name)
	if !ok {
		return nil
	}
	if reason := apperr.CheckText(value, 1, longest); reason != "" {
		in.Fail(name, reason)
		return nil
	}
	return &value
}

// Enum is a parameter that is one of values; nil if absent or wrong.
func (in *Input) Enum(name string, values ...string) *string {
	value, ok := in.get(name)
	if !ok {
		return nil
	}
	if !slices.Contains(values, value) {
		in.Fail(name, "must be one of "+strings.Join(values, ", "))
		return nil
	}
	return &value
}

// UUID is a parameter in lower-case canonical form; nil if absent or wrong.
func (in *Input) UUID(name string) *uuid.UUID {
	value, ok := in.get(name)
	if !ok {
		return nil
	}
	id, ok := ParseUUID(value)
	if !ok {
		in.Fail(name, reasonUUID)
		return nil
	}
	return &id
}

// UUIDs is a parameter that names 1 to most ids in lower-case canonical form,
// separated by commas; nil if absent, which is wrong, or wrong.
func (in *Input) UUIDs(name string, most int) []uuid.UUID {
	value, _ := in.get(name)
	if len(in.query[name]) > 1 {
		return nil
	}
	texts := strings.SplitN(value, ",", most+1)
	ids := make([]uuid.UUID, len(texts))
	for i, text := range texts {
		var ok bool
		if ids[i], ok = ParseUUID(text); !ok || i == most {
			in.Fail(name, "must be 1 to "+strconv.Itoa(most)+" UUIDs, separated by commas")
			return nil
		}
	}
	return ids
}

// Time is a parameter that is an RFC 3339 time or a date (in UTC), from which
// or, with until, to which something is asked for: the first whole microsecond,
// the precision of Postgres, that is not before it, or the last that is not after
// it or its day. Nil if absent or wrong. The result is in UTC.
func (in *Input) Time(name string, until bool) *time.Time {
	value, ok := in.get(name)
	if !ok {
		return nil
	}
	if t, err := time.Parse(time.DateOnly, value); err == nil {
		if until {
			t = t.AddDate(0, 0, 1).Add(-time.Microsecond)
		}
		return &t
	}
	// A plus sign that was not escaped arrives as a space.
	t, ok := parseTime(strings.Replace(value, " ", "+", 1))
	if !ok {
		in.Fail(name, reasonTime)
		return nil
	}
	if !until {
		t = t.Add(time.Microsecond - time.Nanosecond)
	}
	t = t.Truncate(time.Microsecond)
	return &t
}

// Page reads page, limit and cursor. Where they are wrong it is the first
// page of the default size, and Err says why.
func (in *Input) Page() Page {
	page := Page{Number: in.number("page", 1, maxPage, 1)}
	page.Limit = in.number("limit", 1, maxLimit, defaultLimit)
	page.Offset = int64(page.Number-1) * int64(page.Limit)
	token, ok := in.get("cursor")
	if !ok {
		return page
	}
	if in.query.Has("page") {
		in.Fail("cursor", "must not be combined with page")
		return page
	}
	next, ok := decodeCursor(token)
	if !ok {
		in.Fail("cursor", "must be the nextCursor of an earlier response")
		return page
	}
	next.Limit = page.Limit
	return next
}

func (in *Input) number(name string, least, most, absent int) int {
	value, ok := in.get(name)
	if !ok {
		return absent
	}
	n, err := strconv.Atoi(value)
	// Only the form that we write ourselves: no sign, no leading zeros.
	if err != nil || n < least || n > most || strconv.Itoa(n) != value {
		in.Fail(name, "must be a whole number from "+strconv.Itoa(least)+" to "+strconv.Itoa(most))
		return absent
	}
	return n
}

// Size is a parameter that is a whole number from 0 up; nil if absent or wrong.
func (in *Input) Size(name string) *int64 {
	value, ok := in.get(name)
	if !ok {
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != value {
		in.Fail(name, "must be a whole number from 0")
		return nil
	}
	return &n
}

// Fail records an error that the caller found, such as a range that is empty.
func (in *Input) Fail(field, reason string) { in.fields.Add(field, reason) }

// Err is nil if nothing is wrong, else a VALIDATION_ERROR that lists all of
// it, or why the body was refused as it is. Call it after the last parameter
// was asked for.
func (in *Input) Err() error {
	found := apperr.Fields{}
	for _, f := range slices.Concat(in.path.All(), in.fields.All()) {
		found.Add(f.Field, f.Reason)
	}
	if in.refused != nil && in.path.Err() == nil {
		return in.refused
	}
	for _, name := range slices.Sorted(maps.Keys(in.query)) {
		label := shown(strings.ToValidUTF8(name, "\ufffd"))
		switch {
		case !in.known[name]:
			found.Add(label, "is not a known parameter")
		case len(in.query[name]) > 1:
			found.Add(label, "must not be repeated")
		}
	}
	return found.Err()
}

// Admit is Err for a request that permit, the policy, has to allow: what it
// says about a request that it refuses comes before all that is wrong with it.
// It is not asked where the path is wrong, as nobody knows then about what.
func (in *Input) Admit(permit func() error) error {
	if in.path.Err() == nil {
		if err := permit(); err != nil {
			return err
		}
	}
	return in.Err()
}
