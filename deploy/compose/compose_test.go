// Package compose is the home of what docker-compose.yml needs; see README.md beside it. The package holds only tests: of that
// file, of the script that makes its secrets, and of the Dockerfile, without Docker.
package compose

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const root = "../.."

// file has every field of Compose that we use: what is not here is a mistake.
type file struct {
	Name     string
	Services map[string]container
	Configs  map[string]struct{ Content string }
	Networks map[string]struct {
		Internal bool
		IPAM     struct{ Config []map[string]string }
	}
	Volumes map[string]any

	Limits    any `yaml:"x-limits"`
	Program   any `yaml:"x-program"`
	Settings  any `yaml:"x-settings"`
	Migration any `yaml:"x-migration"`
	Ready     any `yaml:"x-ready"`
}

type container struct {
	Image string
	Build *struct {
		Context, Dockerfile string
		Args                map[string]string
	}
	Command, Profiles, Ports, Volumes, Tmpfs []string
	User, Restart                            string
	Environment                              map[string]string
	Configs                                  []map[string]string
	Networks                                 any
	ReadOnly                                 bool                                  `yaml:"read_only"`
	CapDrop                                  []string                              `yaml:"cap_drop"`
	PullPolicy                               string                                `yaml:"pull_policy"`
	SecurityOpt                              []string                              `yaml:"security_opt"`
	DependsOn                                map[string]struct{ Condition string } `yaml:"depends_on"`
	Healthcheck                              struct {
		Test              []string
		Interval, Timeout string
		Retries           int
		Disable           bool
	}
	Logging any
}

func services() []string { return []string{"registry", "credentials", "token", "audit"} }

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(text)
}

func composition(t *testing.T) file {
	t.Helper()
	var f file
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "docker-compose.yml")))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&f))
	return f
}

func TestEveryNameInTheComposeFileIsThatOfSomething(t *testing.T) {
	t.Parallel()
	f := composition(t)
	settings := regexp.MustCompile(`(?m)^#? ?([A-Z][A-Z0-9_]+)=`).FindAllStringSubmatch(read(t, ".env.example"), -1)
	known := map[string]bool{"AGENTIDP_URL": true} // bootstrap's
	for _, s := range settings {
		known[s[1]] = true
	}
	ours := 0
	for name, c := range f.Services {
		if strings.HasPrefix(c.Image, "agentidp/") {
			ours++
			for variable := range c.Environment {
				require.True(t, known[variable], "%s is told %s, which is no setting", name, variable)
			}
		}
		for needed, how := range c.DependsOn {
			require.Contains(t, f.Services, needed, name)
			require.Contains(t, []string{"service_healthy", "service_completed_successfully"}, how.Condition, name)
		}
		for _, volume := range c.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if !strings.HasPrefix(source, ".") {
				require.Contains(t, f.Volumes, source, name)
			} else if source != "./.agentidp-compose" {
				_, err := os.Stat(filepath.Join(root, source))
				require.NoError(t, err, name)
			}
		}
	}
	require.Equal(t, 9, ours, "four services, their migrations, bootstrap")
	for _, name := range services() {
		require.Equal(t, name, f.Services[name].Build.Args["SERVICE"])
		require.Equal(t, f.Services[name].Image, f.Services["migrate-"+name].Image, "a schema of the same release")
		require.Equal(t, "service_completed_successfully", f.Services[name].DependsOn["migrate-"+name].Condition)
		require.Equal(t, "service_healthy", f.Services["ingress"].DependsOn[name].Condition)
		require.Equal(t, []string{"CMD", "/program", "readycheck"}, f.Services[name].Healthcheck.Test)
		require.Equal(t, "never", f.Services["migrate-"+name].PullPolicy, "nobody else's image by this name gets the owner's password")
	}
}

func TestWhatFacesAgentsRunsWithoutPrivilege(t *testing.T) {
	t.Parallel()
	for name, c := range composition(t).Services {
		require.Equal(t, []string{"no-new-privileges:true"}, c.SecurityOpt, name)
		if strings.HasPrefix(c.Image, "agentidp/") || name == "ingress" {
			require.True(t, c.ReadOnly, name)
			require.Equal(t, []string{"ALL"}, c.CapDrop, name)
		} else {
			require.Regexp(t, `:v?\d+\.\d+(\.\d+)?(-alpine)?$`, c.Image, "%s: of which release", name)
		}
		for _, port := range c.Ports {
			require.Regexp(t, `^(127\.0\.0\.1|\$\{AGENTIDP_BIND:-127\.0\.0\.1\}):`, port, "%s listens on this machine alone", name)
		}
	}
}

func TestNoSecretHasADefault(t *testing.T) {
	t.Parallel()
	secret := regexp.MustCompile(`(PASSWORD|TOKEN|KEY|AUTH|DATABASE_URL|REDIS_URL|NATS_URL)$`)
	given := regexp.MustCompile(`\$\{[A-Z_]+:\?run make compose-up\}`)
	found := 0
	for name, c := range composition(t).Services {
		for variable, value := range c.Environment {
			if secret.MatchString(variable) {
				found++
				require.Regexp(t, given, value, "%s of %s", variable, name)
			}
			require.NotRegexp(t, `://[^:/@]*:[^$@][^@]*@`, value, "a password in %s of %s", variable, name)
		}
	}
	require.Greater(t, found, 30)
	require.Regexp(t, given, composition(t).Configs["redis-auth"].Content)
}

// makeSecrets runs a copy of the script in a directory of its own, where docker is a program that prints a key.
func makeSecrets(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "deploy/compose/secrets"))
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	written, err := os.ReadFile(filepath.Join(dir, ".env"))
	require.NoError(t, err)
	return string(written)
}

func TestSecretsAreMadeOnceAndAllOfThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "deploy/compose"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "deploy/compose/secrets"), []byte(read(t, "deploy/compose/secrets")), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\n[ \"$1\" = build ] || echo PRIVATE+KEY+x\n"), 0o700))
	first := makeSecrets(t, dir)
	info, err := os.Stat(filepath.Join(dir, ".env"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.Equal(t, first, makeSecrets(t, dir), "a second run changes nothing")

	var wanted []string
	for _, m := range regexp.MustCompile(`\$\{([A-Z_]+):\?`).FindAllStringSubmatch(read(t, "docker-compose.yml"), -1) {
		wanted = append(wanted, m[1])
	}
	slices.Sort(wanted)
	values := map[string]bool{}
	for _, variable := range slices.Compact(wanted) {
		m := regexp.MustCompile(`(?m)^` + variable + `=(.+)$`).FindStringSubmatch(first)
		require.Len(t, m, 2, "%s is needed", variable)
		require.False(t, values[m[1]], "%s has the value of another", variable)
		values[m[1]] = true
	}

	require.NoError(t, os.WriteFile(filepath.Join(dir, ".env"), []byte("POSTGRES_PASSWORD=\nREDIS_PASSWORD=mine"), 0o600))
	second := makeSecrets(t, dir)
	require.Contains(t, second, "REDIS_PASSWORD=mine\n", "what is there stays")
	require.NotContains(t, second, "POSTGRES_PASSWORD=\n", "an empty value gives way")
	info, err = os.Stat(filepath.Join(dir, ".env"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

// macOS has bash 3.2 and the tools of BSD.
func TestScriptsOfOperatorsRunOnMacOSToo(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"deploy/compose/secrets", "deploy/k8s/overlays/kind/generate-secrets"} {
		text := read(t, script)
		require.NotRegexp(t, `\bsed\b.* -i`, text, "%s: BSD wants another argument", script)
		require.NotRegexp(t, `\$\{[a-zA-Z_]+(\^|,|@)`, text, "%s: bash 4 changes cases", script)
		require.NotRegexp(t, `\b(mapfile|readarray|declare -A)\b`, text, script)
		require.Contains(t, text, "umask 077\n", script)
	}
}

// Else the hash in `make sbom` is of a program that nobody runs.
func TestMakeSBOMBuildsWhatTheImagesHave(t *testing.T) {
	t.Parallel()
	flags := func(name, version string) string {
		built := regexp.MustCompile(`(?s)go build (-trimpath.*?)\s-o `).FindStringSubmatch(read(t, name))
		require.NotNil(t, built, name)
		return strings.Join(strings.Fields(strings.NewReplacer("\\\n", " ", version, "VERSION", "\\", " ").Replace(built[1])), " ")
	}
	require.Equal(t, flags("deploy/docker/Dockerfile", "$VERSION"), flags("Makefile", "$(VERSION)"))
}

func TestAnImageThatIsTooLargeFails(t *testing.T) {
	t.Parallel()
	for size, fits := range map[string]bool{"47185920": true, "47185921": false} {
		dir := t.TempDir()
		docker := "#!/bin/sh\ncase \"$*\" in *'-f {{.Size}}'*) echo " + size + ";; esac\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, "docker"), []byte(docker), 0o700))
		cmd := exec.CommandContext(t.Context(), "make", "images", "VERSION=test")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		require.Equal(t, fits, err == nil, "%s bytes: %s", size, out)
	}
}

func TestWhatGoesOnRunningIsWatched(t *testing.T) {
	t.Parallel()
	for name, c := range composition(t).Services {
		if c.Restart != "no" {
			require.NotEmpty(t, c.Healthcheck.Test, name)
		}
	}
}

func TestEachImageHasAllThatItsProgramIsMadeOf(t *testing.T) {
	t.Parallel()
	text := read(t, "deploy/docker/Dockerfile")
	for _, copied := range []string{"COPY pkg pkg", "COPY migrations migrations", "COPY services/${SERVICE} services/${SERVICE}", "COPY cmd/agentidp cmd/agentidp"} {
		require.Contains(t, text, copied+"\n")
	}
	for _, service := range append(services(), "bootstrap") {
		require.Contains(t, text, " AS source-"+service+"\n")
		require.Contains(t, text, " AS image-"+service+"\n")
		module := "services/" + service
		if service == "bootstrap" {
			module = "cmd/agentidp"
		}
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if .Replace}}{{.Replace.Path}}{{else if .Main}}.{{end}}{{end}}", "./cmd/"+service)
		cmd.Dir = filepath.Join(root, module)
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
		out, err := cmd.Output()
		require.NoError(t, err, service)
		found := strings.Fields(string(out))
		slices.Sort(found)
		for _, from := range slices.Compact(found) {
			require.Contains(t, []string{".", "../../pkg", "../../migrations"}, from, "%s is made of what its image does not have", service)
		}
	}
}
