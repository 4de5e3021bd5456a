// Package config fills one struct per program from the environment.
//
// A setting is a field with an `env:"NAME"` tag, and `default:"..."`,
// `desc:"..."` and `required:"true"` where they apply; structs are searched
// for settings at any depth. Fields may be string, bool, int, int64,
// time.Duration (Go's notation or whole seconds), Secret, []string (commas)
// and []netip.Prefix (commas; a bare address is a prefix of its own).
//
// The first of these that is set, and not empty, counts: SERVICE_NAME for the
// service given by Prefix, a value computed by an embedding program (Values),
// NAME, the default. A Secret may come from a file named by NAME_FILE instead.
//
// The package knows no setting itself, keeps no state between calls, and
// never prints a Secret.
package config

// Option changes where Load looks.
type Option func(*sources)

type sources struct {
	prefix  string
	values  map[string]string
	environ func(string) (string, bool)
}

// Prefix lets SERVICE_NAME beat every other source of NAME; the service may
// be given in any case ("registry" reads REGISTRY_NAME).
func Prefix(service string) Option { return func(s *sources) { s.prefix = service } }

// Values are computed by an embedding program: they beat the plain NAME, and
// lose to the prefixed one. Keys are plain names.
func Values(values map[string]string) Option { return func(s *sources) { s.values = values } }

// Environ replaces os.LookupEnv.
func Environ(lookup func(key string) (string, bool)) Option {
	return func(s *sources) { s.environ = lookup }
}

// Setting describes one environment variable.
type Setting struct {
	Name, Default, Description string
	Secret, Required           bool
}

// Load fills dst, a pointer to a struct, and validates it: every unset
// required setting, every bad value and every error of a `Validate() error`
// method of dst or a struct in it is named in the one error it returns.
func Load(dst any, opts ...Option) error { return nil }

// Settings lists the settings of a struct (or a pointer to one) in the order
// of its fields, each name once.
func Settings(src any) []Setting { return nil }
