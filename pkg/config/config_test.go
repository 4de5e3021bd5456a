package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
)

type database struct {
	URL      config.Secret `env:"DATABASE_URL" required:"true" desc:"Where the data is."`
	MaxConns int           `env:"DATABASE_MAX_CONNS" default:"10"`
}

func (d *database) Validate() error {
	if d.MaxConns < 1 {
		return errors.New("DATABASE_MAX_CONNS: must be positive")
	}
	return nil
}

type settings struct {
	Addr     string         `env:"ADDR" default:":8080"`
	Debug    bool           `env:"DEBUG"`
	Limit    int64          `env:"LIMIT" default:"100"`
	TTL      time.Duration  `env:"TTL" default:"1h"`
	Origins  []string       `env:"ORIGINS"`
	Proxies  []netip.Prefix `env:"PROXIES"`
	Database database
	Name     string // no setting
}

func (s settings) Validate() error {
	var errs []error
	if s.Limit < 0 {
		errs = append(errs, errors.New("LIMIT: must not be negative"))
	}
	if s.TTL <= 0 {
		errs = append(errs, errors.New("TTL: must be positive"))
	}
	return errors.Join(errs...)
}

func environ(vars map[string]string) config.Option {
	return config.Environ(func(key string) (string, bool) { v, ok := vars[key]; return v, ok })
}

func TestLoadReadsEveryKind(t *testing.T) {
	t.Parallel()
	var got settings
	require.NoError(t, config.Load(&got, environ(map[string]string{
		"NAME": "x", "Name": "x", "DEBUG": "true", "LIMIT": "7", "TTL": "90", "ORIGINS": " https://a.example, ,https://b.example ",
		"PROXIES": "10.1.2.3/8, 192.0.2.1,::1, ::ffff:192.0.2.2", "DATABASE_URL": "postgres://u:p@h/d",
	})))
	require.Equal(t, settings{
		Addr: ":8080", Debug: true, Limit: 7, TTL: 90 * time.Second,
		Origins: []string{"https://a.example", "https://b.example"},
		Proxies: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"),
			netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("192.0.2.2/32"),
		},
		Database: database{URL: "postgres://u:p@h/d", MaxConns: 10},
	}, got)
}

func TestLoadReadsTheEnvironmentOfTheProcess(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://from-the-process")
	var got settings
	require.NoError(t, config.Load(&got))
	require.Equal(t, "postgres://from-the-process", got.Database.URL.Reveal())
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		env    map[string]string
		values map[string]string
		want   string
	}{
		{"the default counts last", nil, nil, ":8080"},
		{"the plain name beats the default", map[string]string{"ADDR": "plain"}, nil, "plain"},
		{"a computed value beats the plain name", map[string]string{"ADDR": "plain"}, map[string]string{"ADDR": "computed"}, "computed"},
		{"the prefixed name beats all", map[string]string{"ADDR": "plain", "REGISTRY_ADDR": "prefixed"}, map[string]string{"ADDR": "computed"}, "prefixed"},
		{"an empty variable is not set", map[string]string{"ADDR": "", "REGISTRY_ADDR": ""}, map[string]string{"ADDR": ""}, ":8080"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"DATABASE_URL": "x"}
			for k, v := range tt.env {
				env[k] = v
			}
			var got settings
			require.NoError(t, config.Load(&got, config.Prefix("registry"), config.Values(tt.values), environ(env)))
			require.Equal(t, tt.want, got.Addr)
		})
	}
}

func TestSecretsComeFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	plain, pem, empty := write("plain", "from-file\r\n"), write("pem", "line 1\nline 2\n"), write("empty", "\n")
	large := write("large", string(make([]byte, 1<<20)))

	tests := []struct {
		name, want, problem string
		env                 map[string]string
	}{
		{name: "the last line break is no part of it", env: map[string]string{"DATABASE_URL_FILE": plain}, want: "from-file"},
		{name: "inner line breaks are", env: map[string]string{"DATABASE_URL_FILE": pem}, want: "line 1\nline 2"},
		{name: "the prefixed file beats the plain value", env: map[string]string{"DATABASE_URL": "x", "TOKEN_DATABASE_URL_FILE": plain}, want: "from-file"},
		{name: "value and file together are refused", env: map[string]string{"DATABASE_URL": "x", "DATABASE_URL_FILE": plain}, problem: "must not both be set"},
		{name: "a missing file is named", env: map[string]string{"DATABASE_URL_FILE": dir + "/missing"}, problem: "DATABASE_URL_FILE"},
		{name: "a directory is refused", env: map[string]string{"DATABASE_URL_FILE": dir}, problem: "no file"},
		{name: "an empty file is refused", env: map[string]string{"DATABASE_URL_FILE": empty}, problem: "is empty"},
		{name: "a huge file is refused", env: map[string]string{"DATABASE_URL_FILE": large}, problem: "no file of at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got settings
			err := config.Load(&got, config.Prefix("TOKEN"), environ(tt.env))
			if tt.problem != "" {
				require.ErrorContains(t, err, tt.problem)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got.Database.URL.Reveal())
		})
	}
}

func TestOnlySecretsComeFromFiles(t *testing.T) {
	t.Parallel()
	var got settings
	require.NoError(t, config.Load(&got, environ(map[string]string{"DATABASE_URL": "x", "ADDR_FILE": "/etc/hostname"})))
	require.Equal(t, ":8080", got.Addr)
}

func TestAllProblemsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	var got settings
	err := config.Load(&got, environ(map[string]string{
		"DEBUG": "perhaps", "LIMIT": "many", "TTL": "soon", "PROXIES": "10.0.0.0/8,nowhere", "DATABASE_MAX_CONNS": "1.5",
	}))
	var e *config.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, []string{
		`DEBUG: "perhaps" is neither true nor false`,
		`LIMIT: "many" is no whole number`,
		`TTL: "soon" is no duration such as 90s, 5m or a number of seconds`,
		`PROXIES: "10.0.0.0/8,nowhere" has "nowhere", which is no network such as 10.0.0.0/8 and no address`,
		`DATABASE_URL: is required`,
		`DATABASE_MAX_CONNS: "1.5" is no whole number`,
	}, e.Problems)
	for _, problem := range e.Problems {
		require.ErrorContains(t, err, problem)
	}
}

func TestValidateOfNestedStructsIsAsked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env  map[string]string
		want []string
	}{
		"several problems of one": {
			map[string]string{"DATABASE_URL": "x", "LIMIT": "-1", "TTL": "0"},
			[]string{"LIMIT: must not be negative", "TTL: must be positive"},
		},
		"a wrong value within does not hide one around it": {
			map[string]string{"DATABASE_URL": "x", "DATABASE_MAX_CONNS": "0", "LIMIT": "-1"},
			[]string{"DATABASE_MAX_CONNS: must be positive", "LIMIT: must not be negative"},
		},
		"nor does a missing one, wherever it is": {
			map[string]string{"DATABASE_MAX_CONNS": "0", "LIMIT": "-1"},
			[]string{"DATABASE_URL: is required", "DATABASE_MAX_CONNS: must be positive", "LIMIT: must not be negative"},
		},
		"nor one within that cannot be read": {
			map[string]string{"DATABASE_URL": "x", "DATABASE_MAX_CONNS": "few", "LIMIT": "-1"},
			[]string{`DATABASE_MAX_CONNS: "few" is no whole number`, "LIMIT: must not be negative"},
		},
		"what cannot be read is not judged, only what is within": {
			map[string]string{"DATABASE_URL": "x", "DATABASE_MAX_CONNS": "0", "TTL": "soon"},
			[]string{`TTL: "soon" is no duration such as 90s, 5m or a number of seconds`, "DATABASE_MAX_CONNS: must be positive"},
		},
	} {
		var got settings
		var e *config.Error
		require.ErrorAs(t, config.Load(&got, environ(test.env)), &e, name)
		require.Equal(t, test.want, e.Problems, name)
	}
}

func TestAKindThatCannotBeReadIsAProblem(t *testing.T) {
	t.Parallel()
	var got struct {
		Ratio float64 `env:"RATIO" default:"0.5"`
	}
	require.ErrorContains(t, config.Load(&got, environ(nil)), "RATIO")
}

func TestASecretIsNeverShown(t *testing.T) {
	t.Parallel()
	const value = "hunter2-hunter2"
	type holder struct {
		Password config.Secret
		Empty    config.Secret
	}
	h := holder{Password: value}
	var shown bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		_, _ = fmt.Fprintf(&shown, verb+verb+verb+verb, h, &h, h.Password, []config.Secret{value})
	}
	_, _ = fmt.Fprint(&shown, h, h.Password, map[config.Secret]int{value: 1}, h.Password.String(), h.Password.GoString())
	encoded, err := json.Marshal(map[string]any{"h": h, "p": &h, "list": []config.Secret{value}})
	require.NoError(t, err)
	shown.Write(encoded)
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&shown, nil), slog.NewTextHandler(&shown, nil)} {
		slog.New(handler).Info("x", "secret", h.Password, "holder", h, "list", []config.Secret{value})
	}
	require.NotContains(t, shown.String(), value)
	require.NotContains(t, shown.String(), fmt.Sprintf("%x", value))
	require.Contains(t, shown.String(), "[redacted]")
	require.Equal(t, value, h.Password.Reveal())
	require.Equal(t, `config.Secret("")`, fmt.Sprintf("%#v", h.Empty), "that a secret is not set may be seen")
}

func TestASecretIsNotInErrors(t *testing.T) {
	t.Parallel()
	var got settings
	err := config.Load(&got, environ(map[string]string{"DATABASE_URL": "hunter2", "LIMIT": "x", "DATABASE_URL_FILE": "/x"}))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}

func TestSettingsListsEachNameOnce(t *testing.T) {
	t.Parallel()
	type pair struct{ A, B database }
	want := []config.Setting{
		{Name: "DATABASE_URL", Description: "Where the data is.", Secret: true, Required: true},
		{Name: "DATABASE_MAX_CONNS", Default: "10"},
	}
	require.Equal(t, want, config.Settings(pair{}))
	require.Equal(t, want, config.Settings(&pair{}))
	names := []string{}
	for _, s := range config.Settings(settings{}) {
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"ADDR", "DEBUG", "LIMIT", "TTL", "ORIGINS", "PROXIES", "DATABASE_URL", "DATABASE_MAX_CONNS"}, names)
}

func TestAURLIsPlainInWhateverCase(t *testing.T) {
	t.Parallel()
	for url, plain := range map[config.URL]bool{
		"http://registry:9090": true, "HTTP://registry:9090": true, "https://registry:9090": false, "HTTPS://registry:9090": false, "": false,
	} {
		require.Equal(t, plain, url.Plain(), url)
	}
}

func TestAURLIsAbsoluteAndHTTP(t *testing.T) {
	t.Parallel()
	type settings struct {
		Peer config.URL `env:"PEER_URL"`
	}
	load := func(value string) (settings, error) {
		var s settings
		err := config.Load(&s, config.Environ(func(name string) (string, bool) { return value, name == "PEER_URL" }))
		return s, err
	}
	for _, wrong := range []string{"registry:9090", "ftp://registry", "//registry", "http://", "http://%zz", "registry"} {
		_, err := load(wrong)
		require.ErrorContains(t, err, "PEER_URL", wrong)
	}
	for _, right := range []string{"http://registry:9090", "https://registry.example/base"} {
		s, err := load(right)
		require.NoError(t, err)
		require.Equal(t, config.URL(right), s.Peer)
	}
}
