package k8s

import (
	"bytes"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// services are those with a folder of their own in base.
func services() []string { return []string{"registry", "credentials", "token", "audit"} }

// built is one way to apply this directory: an overlay, or what an operator makes of it with other components.
type built struct {
	name    string
	objects []runtime.Object
}

// all has every overlay, and the overlays with the components that they do not have themselves: each alone, and together.
// It is built once for all tests.
var all = sync.OnceValues(func() ([]built, error) {
	fs, err := directory()
	if err != nil {
		return nil, err
	}
	var list []built
	for name, components := range variants() {
		one, err := variant(fs, name, components)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b built) int { return strings.Compare(a.name, b.name) })
	return list, nil
})

// variants are the components that each one has; the name begins with the overlay it is made from.
func variants() map[string][]string {
	kind := []string{"in-cluster", "in-cluster-ingress"}
	list := map[string][]string{
		"kind":                      nil, // nil leaves the overlay as it is
		"production":                nil,
		"kind, data in volumes":     append(slices.Clone(kind), "in-cluster-storage"),
		"kind, behind Traefik":      {"in-cluster", "ingress-traefik"},
		"kind, with all":            append(slices.Clone(kind), "in-cluster-storage", "prometheus-operator", "hpa-requests", "audit-witnesses", "vault"),
		"kind, TLS":                 append(slices.Clone(kind), "cert-manager-mtls"),
		"production, with nothing":  {},
		"production, secrets alone": {"external-secrets"},
	}
	extra := []string{"prometheus-operator", "hpa-requests", "audit-witnesses", "vault"}
	for _, door := range []string{"gateway-api", "ingress-traefik", "ingress-nginx"} {
		with := []string{door, "external-secrets"}
		list["production, "+door] = with
		list["production, "+door+" and all"] = append(slices.Clone(with), extra...)
		list["production, "+door+" and TLS"] = append(slices.Clone(with), "cert-manager-mtls")
		list["production, "+door+", TLS and all"] = append(slices.Clone(list["production, "+door+" and all"]), "cert-manager-mtls")
		for _, one := range extra {
			list["production, "+door+" and "+one] = append(slices.Clone(with), one)
		}
	}
	return list
}

// variant builds an overlay with other components than it names.
func variant(fs filesys.FileSystem, name string, components []string) (built, error) {
	overlay, _, _ := strings.Cut(name, ",")
	dir := "/overlays/" + overlay
	if components != nil {
		text, err := fs.ReadFile(dir + "/kustomization.yaml")
		if err != nil {
			return built{}, err
		}
		var kustomization types.Kustomization
		decoder := yaml.NewDecoder(bytes.NewReader(text))
		decoder.KnownFields(true) // what it does not know, it would not write either
		if err := decoder.Decode(&kustomization); err != nil {
			return built{}, err
		}
		kustomization.Components = nil
		for _, component := range components {
			kustomization.Components = append(kustomization.Components, "../../components/"+component)
		}
		if text, err = yaml.Marshal(kustomization); err != nil {
			return built{}, err
		}
		files, err := fs.Glob(dir + "/*")
		if err != nil {
			return built{}, err
		}
		secrets, err := fs.Glob(dir + "/secrets/*")
		if err != nil {
			return built{}, err
		}
		to := "/overlays/" + strings.NewReplacer(" ", "-", ",", "").Replace(name)
		for _, file := range append(files, secrets...) {
			content, err := fs.ReadFile(file)
			if err != nil {
				return built{}, err
			}
			if err := fs.WriteFile(to+strings.TrimPrefix(file, dir), content); err != nil {
				return built{}, err
			}
		}
		if err := fs.WriteFile(to+"/kustomization.yaml", text); err != nil {
			return built{}, err
		}
		dir = to
	}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, dir)
	if err != nil {
		return built{}, err
	}
	one := built{name: name}
	decoder, err := strictDecoder()
	if err != nil {
		return built{}, err
	}
	for _, resource := range resources.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return built{}, err
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			return built{}, &undecodable{name, string(text), err}
		}
		one.objects = append(one.objects, object)
	}
	return one, nil
}

type undecodable struct {
	variant, text string
	error
}

func (u *undecodable) Error() string { return u.variant + ": " + u.error.Error() + "\n" + u.text }

// directory is this directory in memory, with secrets as overlays/kind/generate-secrets makes them.
func directory() (filesys.FileSystem, error) {
	fs := filesys.MakeFsInMemory()
	for _, top := range []string{"base", "components", "overlays"} {
		err := filepath.WalkDir(top, func(file string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.Contains(file, "/secrets/") {
				return err
			}
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return fs.WriteFile("/"+file, content)
		})
		if err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "overlay")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := generateSecrets(dir, "PRIVATE+KEY+made+for+a+test"); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(filepath.Join(dir, "secrets"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(dir, "secrets", file.Name()))
		if err != nil {
			return nil, err
		}
		if err := fs.WriteFile(path.Join("/overlays/kind/secrets", file.Name()), content); err != nil {
			return nil, err
		}
	}
	return fs, nil
}

// generateSecrets runs a copy of the kind overlay's script in dir, where docker is a program that prints what the image of audit would.
func generateSecrets(dir, logKey string) error {
	docker := "#!/bin/sh\ncase \"$*\" in 'run '*' agentidp/audit:dev keygen audit.localhost') echo " + logKey + ";; *) exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(docker), 0o700); err != nil {
		return err
	}
	script, err := os.ReadFile("overlays/kind/generate-secrets")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "generate-secrets"), script, 0o700); err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(dir, "generate-secrets"))
	cmd.Env = append(os.Environ(), "LOG_KEY=", "PATH="+dir+":"+os.Getenv("PATH"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return &undecodable{"generate-secrets", said.String(), err}
	}
	return nil
}

// everyVariant runs check for each way to apply this directory.
func everyVariant(t *testing.T, check func(t *testing.T, v built)) {
	t.Helper()
	list, err := all()
	require.NoError(t, err)
	require.NotEmpty(t, list)
	for _, v := range list {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			check(t, v)
		})
	}
}

// of gives the objects of one type.
func of[T runtime.Object](v built) []T {
	var list []T
	for _, object := range v.objects {
		if one, ok := object.(T); ok {
			list = append(list, one)
		}
	}
	return list
}

func TestEveryComponentIsInAVariant(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, components := range variants() {
		for _, component := range components {
			used[component] = true
		}
	}
	entries, err := os.ReadDir("components")
	require.NoError(t, err)
	for _, entry := range entries {
		require.True(t, used[entry.Name()], entry.Name())
	}
	overlays, err := os.ReadDir("overlays")
	require.NoError(t, err)
	for _, entry := range overlays {
		_, found := variants()[entry.Name()]
		require.True(t, found, entry.Name())
	}
}

func TestSecretsAreRandomAndMadeOnce(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	read := func(dir string) string {
		text, err := os.ReadFile(filepath.Join(dir, "secrets", "postgres.env"))
		require.NoError(t, err)
		return string(text)
	}
	for range 2 {
		dir := t.TempDir()
		require.NoError(t, generateSecrets(dir, "PRIVATE+KEY+x"))
		first := read(dir)
		for line := range strings.Lines(first) {
			_, value, found := strings.Cut(strings.TrimSpace(line), "=")
			require.True(t, found)
			require.Regexp(t, `^p[0-9a-f]{48}$`, value)
			require.False(t, seen[value], "two passwords are the same")
			seen[value] = true
		}
		require.NoError(t, generateSecrets(dir, "PRIVATE+KEY+x"))
		require.Equal(t, first, read(dir))
		info, err := os.Stat(filepath.Join(dir, "secrets"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	}
}
