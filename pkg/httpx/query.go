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

// PathUUID is the path parameter of this name; a VALIDATION_ERROR that names
// it if it is no UUID in lower-case canonical form.
func PathUUID(c *gin.Context, name string) (uuid.UUID, error) {
	id, ok := ParseUUID(c.Param(name))
	if !ok {
		return uuid.UUID{}, apperr.Validation(apperr.FieldError{Field: name, Reason: reasonUUID})
	}
	return id, nil
}

// Query reads the parameters of a query string, and collects all that is
// wrong with them for Err. It is not safe for concurrent use.
type Query struct {
	values url.Values
	known  map[string]bool
	fields apperr.Fields
}

// NewQuery reads the request's query string. A parameter is known if it is
// listed here or asked for by a method before Err; others are errors, and so
// is any that is given twice.
func NewQuery(c *gin.Context, known ...string) *Query {
	q := &Query{known: make(map[string]bool, len(known))}
	for _, name := range known {
		q.known[name] = true
	}
	values, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		q.Fail("query", "is not a valid query string")
	}
	q.values = values
	return q
}

// get is the parameter's value; false if it is absent, or repeated (which Err reports).
func (q *Query) get(name string) (string, bool) {
	q.known[name] = true
	if given := q.values[name]; len(given) == 1 {
		return given[0], true
	}
	return "", false
}

// Text is a parameter of 1 to longest characters (see apperr.CheckText); nil if absent or wrong.
func (q *Query) Text(name string, longest int) *string {
	value, ok := q.get(name)
	if !ok {
		return nil
	}
	if reason := apperr.CheckText(value, 1, longest); reason != "" {
		q.Fail(name, reason)
		return nil
	}
	return &value
}

// Enum is a parameter that is one of values; nil if absent or wrong.
func (q *Query) Enum(name string, values ...string) *string {
	value, ok := q.get(name)
	if !ok {
		return nil
	}
	if !slices.Contains(values, value) {
		q.Fail(name, "must be one of "+strings.Join(values, ", "))
		return nil
	}
	return &value
}

// UUID is a parameter in lower-case canonical form; nil if absent or wrong.
func (q *Query) UUID(name string) *uuid.UUID {
	value, ok := q.get(name)
	if !ok {
		return nil
	}
	id, ok := ParseUUID(value)
	if !ok {
		q.Fail(name, reasonUUID)
		return nil
	}
	return &id
}

// Time is a parameter that is an RFC 3339 time or a date (in UTC): its first
// moment, or with endOfDay its last, to the microsecond. Nil if absent or
// wrong. The result is in UTC.
func (q *Query) Time(name string, endOfDay bool) *time.Time {
	value, ok := q.get(name)
	if !ok {
		return nil
	}
	if t, err := time.Parse(time.DateOnly, value); err == nil {
		if endOfDay {
			t = t.AddDate(0, 0, 1).Add(-time.Microsecond)
		}
		return &t
	}
	// A plus sign that was not escaped arrives as a space.
	t, ok := parseTime(strings.Replace(value, " ", "+", 1))
	if !ok {
		q.Fail(name, reasonTime)
		return nil
	}
	return &t
}

// Page reads page, limit and cursor. Where they are wrong it is the first
// page of the default size, and Err says why.
func (q *Query) Page() Page {
	page := Page{Number: q.number("page", 1, maxPage, 1)}
	page.Limit = q.number("limit", 1, maxLimit, defaultLimit)
	page.Offset = int64(page.Number-1) * int64(page.Limit)
	token, ok := q.get("cursor")
	if !ok {
		return page
	}
	if q.values.Has("page") {
		q.Fail("cursor", "must not be combined with page")
		return page
	}
	next, ok := decodeCursor(token)
	if !ok {
		q.Fail("cursor", "must be the nextCursor of an earlier response")
		return page
	}
	next.Limit = page.Limit
	return next
}

func (q *Query) number(name string, least, most, absent int) int {
	value, ok := q.get(name)
	if !ok {
		return absent
	}
	n, err := strconv.Atoi(value)
	// Only the form that we write ourselves: no sign, no leading zeros.
	if err != nil || n < least || n > most || strconv.Itoa(n) != value {
		q.Fail(name, "must be a whole number from "+strconv.Itoa(least)+" to "+strconv.Itoa(most))
		return absent
	}
	return n
}

// Size is a parameter that is a whole number from 0 up; nil if absent or wrong.
func (q *Query) Size(name string) *int64 {
	value, ok := q.get(name)
	if !ok {
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != value {
		q.Fail(name, "must be a whole number from 0")
		return nil
	}
	return &n
}

// Fail records an error that the caller found, such as a range that is empty.
func (q *Query) Fail(field, reason string) { q.fields.Add(field, reason) }

// Err is nil if nothing is wrong, else a VALIDATION_ERROR that lists all of
// it. Call it after the last parameter was asked for.
func (q *Query) Err() error {
	found := apperr.Fields{}
	for _, f := range q.fields.All() {
		found.Add(f.Field, f.Reason)
	}
	for _, name := range slices.Sorted(maps.Keys(q.values)) {
		label := shown(strings.ToValidUTF8(name, "\ufffd"))
		switch {
		case !q.known[name]:
			found.Add(label, "is not a known parameter")
		case len(q.values[name]) > 1:
			found.Add(label, "must not be repeated")
		}
	}
	return found.Err()
}
