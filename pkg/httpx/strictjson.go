package httpx

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

const (
	// wholeBody is the field that is named where no single one is at fault.
	wholeBody = "body"
	// maxDepth of arrays and objects in a body; what we accept needs four.
	maxDepth = 32
	// maxShownName bounds how much of an unknown field's name is sent back, in bytes.
	maxShownName = 64
)

// unmarshalStrict decodes one JSON object into the struct that dst points to,
// by the rules of Input.JSON, calls its Check, and returns all that is wrong.
// It never panics on input.
func unmarshalStrict(body []byte, dst any) []apperr.FieldError {
	var d strictDecoder
	var found apperr.Fields
	if d.decode(body, reflect.ValueOf(dst).Elem()) {
		if checker, ok := dst.(Checker); ok {
			checker.Check(&found)
		}
	}
	news := slices.DeleteFunc(found.All(), func(f apperr.FieldError) bool { return d.failed(f.Field) })
	return slices.Concat(d.fields.All(), news)
}

// strictDecoder collects what is wrong while it fills a struct.
type strictDecoder struct {
	fields apperr.Fields
}

// decode reports whether there was an object whose fields could be looked at.
func (d *strictDecoder) decode(body []byte, dst reflect.Value) bool {
	if !utf8.Valid(body) {
		d.fields.Add(wholeBody, "must be valid UTF-8")
		return false
	}
	if tooDeep(body) {
		d.fields.Add(wholeBody, "must not be nested deeper than "+strconv.Itoa(maxDepth)+" levels")
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	var object json.RawMessage
	if err := dec.Decode(&object); err != nil {
		d.fields.Add(wholeBody, syntaxReason(err))
		return false
	}
	if object[0] != '{' {
		d.fields.Add(wholeBody, "must be a JSON object, not "+typeOf(object))
		return false
	}
	if len(bytes.TrimLeft(body[dec.InputOffset():], " \t\r\n")) > 0 {
		d.fields.Add(wholeBody, "must hold one JSON object and nothing after it")
	}
	d.object(dst, object, "")
	return true
}

func syntaxReason(err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return "is not valid JSON: " + syntax.Error() + " at byte " + strconv.FormatInt(syntax.Offset, 10)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "is not valid JSON: it ends too early"
	}
	return "is not valid JSON"
}

// tooDeep looks at brackets outside of strings; whether they match is for the parser.
func tooDeep(body []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(body); i++ {
		switch b := body[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case b == '}' || b == ']':
			depth--
		}
	}
	return false
}

// failed reports whether the field, or the one that it is a part of, has failed already; the whole body has where any
// field has.
func (d *strictDecoder) failed(field string) bool {
	if field == wholeBody {
		return len(d.fields.All()) > 0
	}
	root := rootOf(field)
	return slices.ContainsFunc(d.fields.All(), func(f apperr.FieldError) bool { return rootOf(f.Field) == root })
}

func rootOf(field string) string {
	if end := strings.IndexAny(field, ".["); end >= 0 {
		return field[:end]
	}
	return field
}

// member is one name and value of an object.
type member struct {
	name  string
	value json.RawMessage
}

// members splits an object that is known to be well-formed.
func members(object json.RawMessage) []member {
	dec := json.NewDecoder(bytes.NewReader(object))
	_, _ = dec.Token() // {
	var list []member
	for dec.More() {
		token, err := dec.Token()
		name, ok := token.(string)
		var value json.RawMessage
		if err != nil || !ok || dec.Decode(&value) != nil {
			return list
		}
		list = append(list, member{name, value})
	}
	return list
}

func (d *strictDecoder) object(dst reflect.Value, object json.RawMessage, path string) {
	known := fieldsOf(dst.Type())
	times := map[string]int{}
	for _, m := range members(object) {
		at := join(path, shown(m.name))
		if times[m.name]++; times[m.name] > 1 {
			if times[m.name] == 2 {
				d.fields.Add(at, "must not be repeated")
			}
			continue
		}
		if i := slices.IndexFunc(known, func(f field) bool { return f.name == m.name }); i >= 0 {
			d.value(dst.FieldByIndex(known[i].index), m.value, at, known[i].nullable)
			continue
		}
		reason := "is not a known field"
		if i := slices.IndexFunc(known, func(f field) bool { return strings.EqualFold(f.name, m.name) }); i >= 0 {
			reason += "; names are case-sensitive: " + known[i].name
		}
		d.fields.Add(at, reason)
	}
}

// field is a struct field as JSON sees it.
type field struct {
	name     string
	index    []int
	nullable bool
}

// fieldsOf lists a struct's fields; those of embedded structs count as its own.
func fieldsOf(t reflect.Type) []field {
	var list []field
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || f.Anonymous {
			continue
		}
		if name == "" {
			name = f.Name
		}
		list = append(list, field{name: name, index: f.Index, nullable: f.Tag.Get("null") == "allowed"})
	}
	return list
}

func (d *strictDecoder) value(dst reflect.Value, raw json.RawMessage, path string, nullable bool) {
	if raw[0] == 'n' && dst.Type() != reflect.TypeFor[json.RawMessage]() {
		if dst.Kind() != reflect.Pointer || !nullable {
			d.fields.Add(path, "must not be null")
		}
		return
	}
	if dst.Kind() == reflect.Pointer {
		// Set only once the value is good: a pointer tells that there is one.
		target := reflect.New(dst.Type().Elem())
		before := len(d.fields.All())
		if d.value(target.Elem(), raw, path, false); len(d.fields.All()) == before {
			dst.Set(target)
		}
		return
	}
	switch dst.Interface().(type) {
	case time.Time:
		d.time(dst, raw, path)
	case uuid.UUID:
		d.uuid(dst, raw, path)
	case json.RawMessage:
		if d.free(raw, path) {
			dst.SetBytes(raw)
		}
	default:
		d.kind(dst, raw, path)
	}
}

// kind fills what is no type of its own.
func (d *strictDecoder) kind(dst reflect.Value, raw json.RawMessage, path string) {
	switch dst.Kind() {
	case reflect.String:
		if s, ok := d.string(raw, path); ok {
			dst.SetString(s)
		}
	case reflect.Bool:
		if d.is(raw, "true or false", path) {
			dst.SetBool(raw[0] == 't')
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		d.integer(dst, raw, path)
	case reflect.Struct:
		if d.is(raw, "an object", path) {
			d.object(dst, raw, path)
		}
	case reflect.Slice:
		d.slice(dst, raw, path)
	default:
		d.other(dst, raw, path)
	}
}

// is reports whether raw is of the wanted type, and records it if it is not.
func (d *strictDecoder) is(raw json.RawMessage, want, path string) bool {
	if got := typeOf(raw); got != want {
		d.fields.Add(path, "must be "+want+", not "+got)
		return false
	}
	return true
}

// typeOf names a JSON value's type by its first byte, for people.
func typeOf(raw json.RawMessage) string {
	switch raw[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

func (d *strictDecoder) string(raw json.RawMessage, path string) (string, bool) {
	if !d.is(raw, "a string", path) {
		return "", false
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		d.fields.Add(path, "is not a valid string")
		return "", false
	}
	if reason := unstorable(s); reason != "" {
		d.fields.Add(path, reason)
		return "", false
	}
	return s, true
}

// unstorable is about text that no field may have: NUL, which Postgres cannot
// hold, and U+FFFD, which stands for what was no Unicode (half a surrogate pair).
func unstorable(s string) string {
	switch {
	case strings.ContainsRune(s, 0):
		return "must not contain NUL characters"
	case strings.ContainsRune(s, utf8.RuneError):
		return "must be valid Unicode text"
	default:
		return ""
	}
}

func (d *strictDecoder) time(dst reflect.Value, raw json.RawMessage, path string) {
	s, ok := d.string(raw, path)
	if !ok {
		return
	}
	t, ok := parseTime(s)
	if !ok {
		d.fields.Add(path, "must be an RFC 3339 time such as 2026-01-31T12:00:00Z")
		return
	}
	dst.Set(reflect.ValueOf(t))
}

// timePattern is date-time of RFC 3339 §5.6, which time.Parse is lax about: it takes "1:00" and "5,5" as well.
var timePattern = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// parseTime reads a time as RFC 3339 writes it. Its year in UTC has four digits, so that it can be written again.
func parseTime(s string) (t time.Time, ok bool) {
	if !timePattern.MatchString(s) {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, s)
	t = t.UTC()
	return t, err == nil && t.Year() >= 1 && t.Year() <= 9999
}

func (d *strictDecoder) uuid(dst reflect.Value, raw json.RawMessage, path string) {
	s, ok := d.string(raw, path)
	if !ok {
		return
	}
	id, ok := ParseUUID(s)
	if !ok {
		d.fields.Add(path, reasonUUID)
		return
	}
	dst.Set(reflect.ValueOf(id))
}

func (d *strictDecoder) integer(dst reflect.Value, raw json.RawMessage, path string) {
	if !d.is(raw, "a number", path) {
		return
	}
	n, err := strconv.ParseInt(string(raw), 10, dst.Type().Bits())
	switch {
	case errors.Is(err, strconv.ErrRange):
		d.fields.Add(path, "is out of range")
	case err != nil:
		d.fields.Add(path, "must be a whole number")
	default:
		dst.SetInt(n)
	}
}

func (d *strictDecoder) slice(dst reflect.Value, raw json.RawMessage, path string) {
	if !d.is(raw, "an array", path) {
		return
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		d.fields.Add(path, "is not a valid array")
		return
	}
	list := reflect.MakeSlice(dst.Type(), len(items), len(items))
	for i, item := range items {
		d.value(list.Index(i), item, path+"["+strconv.Itoa(i)+"]", false)
	}
	dst.Set(list)
}

// other is for maps, interfaces and numbers that are not whole.
func (d *strictDecoder) other(dst reflect.Value, raw json.RawMessage, path string) {
	if !d.free(raw, path) {
		return
	}
	if err := json.Unmarshal(raw, dst.Addr().Interface()); err != nil {
		d.fields.Add(path, "has the wrong type or is out of range")
	}
}

// free looks through a value whose shape is the caller's: names must not be
// repeated, and text must be storable, at any depth.
func (d *strictDecoder) free(raw json.RawMessage, path string) bool {
	before := len(d.fields.All())
	switch raw[0] {
	case '"':
		d.string(raw, path)
	case '[':
		var items []json.RawMessage
		_ = json.Unmarshal(raw, &items) // well-formed: the whole body was
		for i, item := range items {
			d.free(item, path+"["+strconv.Itoa(i)+"]")
		}
	case '{':
		seen := map[string]bool{}
		for _, m := range members(raw) {
			at := join(path, shown(m.name))
			if reason := unstorable(m.name); reason != "" {
				d.fields.Add(at, "has a name that "+reason)
			}
			if seen[m.name] {
				d.fields.Add(at, "must not be repeated")
			}
			seen[m.name] = true
			d.free(m.value, at)
		}
	}
	return len(d.fields.All()) == before
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// shown is a caller's name as it is sent back: bounded, and never empty.
func shown(name string) string {
	if name == "" {
		return `""`
	}
	if len(name) > maxShownName {
		return strings.ToValidUTF8(name[:maxShownName], "") + "…"
	}
	return name
}
