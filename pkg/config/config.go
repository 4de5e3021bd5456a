// Package config fills one struct per program from the environment.
//
// A setting is a field with an `env:"NAME"` tag, and `default:"..."`,
// `desc:"..."` and `required:"true"` where they apply; structs are searched
// for settings at any depth. Fields may be string, bool, int, int64,
// time.Duration (Go's notation or whole seconds), Secret, URL, []string
// (commas) and []netip.Prefix (commas; a bare address is a network of its own).
//
// The first of these that is set, and not empty, counts: SERVICE_NAME for the
// service given by Prefix, a value computed by an embedding program (Values),
// NAME, the default. A Secret may come from a file named by NAME_FILE instead,
// at each of these levels.
//
// The package knows no setting itself, keeps no state between calls, and
// never prints a Secret.
package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"strings"

	"github.com/spf13/viper"
)

// Option changes where Load looks.
type Option func(*sources)

// Prefix lets SERVICE_NAME beat every other source of NAME; the service may
// be given in any case ("registry" reads REGISTRY_NAME).
func Prefix(service string) Option {
	return func(s *sources) { s.prefix = strings.ToUpper(service) + "_" }
}

// Values are computed by an embedding program: they beat the plain NAME, and
// lose to the prefixed one. Keys are plain names.
func Values(values map[string]string) Option {
	return func(s *sources) { s.values = values }
}

// Environ replaces os.LookupEnv.
func Environ(lookup func(key string) (string, bool)) Option {
	return func(s *sources) { s.environ = lookup }
}

// Load fills dst, a pointer to a struct, and validates it. Every required
// setting that is not set, every value that cannot be read, and every error
// of a `Validate() error` method of dst or of a struct in it is named in the
// one error it returns.
//
// A struct is asked to validate itself if the values of its own settings could
// be read, whatever is wrong in the structs within it. What it finds empty may
// be missing, and what it finds in a struct within it may be zero as it could
// not be read, or wrong: that is named already, and Validate must neither name
// it again nor take it for what was meant.
func Load(dst any, opts ...Option) error {
	src := sources{environ: os.LookupEnv}
	for _, opt := range opts {
		opt(&src)
	}
	l := loader{settings: viper.New(), sources: src}
	l.fill(reflect.ValueOf(dst).Elem())
	if len(l.problems) == 0 {
		return nil
	}
	return &Error{Problems: l.problems}
}

// Error lists everything that is wrong with a configuration.
type Error struct {
	// Problems are sentences that begin with the setting's name, none of which shows a secret.
	Problems []string
}

func (e *Error) Error() string {
	return "configuration: " + strings.Join(e.Problems, "; ")
}

// URL is the absolute http or https URL of another service.
type URL string

func (u URL) usable() bool {
	parsed, err := url.Parse(string(u))
	return err == nil && parsed.Host != "" && (parsed.Scheme == "http" || parsed.Scheme == "https")
}

// Plain tells whether everybody on the way could read what is sent there.
func (u URL) Plain() bool {
	parsed, err := url.Parse(string(u))
	return err == nil && parsed.Scheme == "http"
}

// Setting describes one environment variable.
type Setting struct {
	Name, Default, Description string
	// Secret settings may also be given by a file named in NAME_FILE.
	Secret, Required bool
}

// Settings lists the settings of a struct (or a pointer to one) in the order
// of its fields, each name once.
func Settings(src any) []Setting {
	t := reflect.TypeOf(src)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var list []Setting
	seen := map[string]bool{}
	walk(t, func(s Setting) {
		if !seen[s.Name] {
			seen[s.Name] = true
			list = append(list, s)
		}
	})
	return list
}

// describe reads a field's tags; false for a field that is no setting.
func describe(f reflect.StructField) (Setting, bool) {
	name, ok := f.Tag.Lookup("env")
	return Setting{
		Name:        name,
		Default:     f.Tag.Get("default"),
		Description: f.Tag.Get("desc"),
		Secret:      f.Type == reflect.TypeFor[Secret](),
		Required:    f.Tag.Get("required") == "true",
	}, ok && f.IsExported()
}

// walk visits the settings of a struct type, those of nested structs included.
func walk(t reflect.Type, visit func(Setting)) {
	for f := range t.Fields() {
		if s, ok := describe(f); ok {
			visit(s)
		} else if f.IsExported() && f.Type.Kind() == reflect.Struct {
			walk(f.Type, visit)
		}
	}
}

type loader struct {
	sources
	settings *viper.Viper
	problems []string
}

// fill reads the settings of a struct, those of nested structs included, and
// then lets it validate itself.
func (l *loader) fill(v reflect.Value) {
	readable := true
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if s, ok := describe(f); ok {
			if err := l.read(v.Field(i), s); err != nil {
				l.problems = append(l.problems, s.Name+": "+err.Error())
				readable = readable && errors.Is(err, errMissing)
			} else if u, ok := v.Field(i).Interface().(URL); ok && u != "" && !u.usable() {
				// It was read, so what else is wrong can still be found.
				l.problems = append(l.problems, s.Name+" must be an http or https URL")
			}
		} else if f.IsExported() && f.Type.Kind() == reflect.Struct {
			l.fill(v.Field(i))
		}
	}
	if readable {
		l.validate(v)
	}
}

func (l *loader) validate(v reflect.Value) {
	validator, ok := v.Addr().Interface().(interface{ Validate() error })
	if !ok {
		return
	}
	err := validator.Validate()
	if err == nil {
		return
	}
	// errors.Join holds one problem per error.
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			l.problems = append(l.problems, e.Error())
		}
	} else {
		l.problems = append(l.problems, err.Error())
	}
}

var errMissing = errors.New("is required")

// read finds a setting's value and stores it in field.
func (l *loader) read(field reflect.Value, s Setting) error {
	l.settings.SetDefault(s.Name, s.Default)
	given, err := l.lookup(s)
	if err != nil {
		return err
	}
	if given != "" {
		l.settings.Set(s.Name, given)
	}
	text := l.settings.GetString(s.Name)
	if text == "" {
		if s.Required {
			return errMissing
		}
		return nil
	}
	if err := parse(field, text); err != nil {
		if s.Secret {
			return err
		}
		return fmt.Errorf("%q %w", text, err)
	}
	return nil
}
