package k8s

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// setting is a row of README.md's table, which a test holds against the services' own configuration.
type setting struct {
	services         []string
	required, secret bool
}

func settings(t *testing.T) map[string]setting {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	row := regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| ([a-z, ]+?)( \\(secret\\))? \\| ([^|]*) \\|")
	table := map[string]setting{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		s := setting{services: strings.Split(m[2], ", "), secret: m[3] != "", required: m[4] == "**required**"}
		if m[2] == "all" {
			s.services = services()
		}
		table[m[1]] = s
	}
	require.True(t, table["INTERNAL_API_TOKEN"].secret && table["INTERNAL_API_TOKEN"].required, "README.md has another table now")
	require.Equal(t, []string{"token"}, table["KEY_ENCRYPTION_KEY"].services)
	return table
}

// foreign are variables of the language's runtime.
func foreign() []string { return []string{"GOMEMLIMIT"} }

func TestAServiceIsToldNothingThatItDoesNotKnowAndAllThatItNeeds(t *testing.T) {
	t.Parallel()
	known := settings(t)
	everyVariant(t, func(t *testing.T, v built) {
		for _, service := range services() {
			told := environment(t, v, server(t, v, service).container(t))
			for name, from := range told {
				if slices.Contains(foreign(), name) {
					continue
				}
				s, found := known[name]
				require.True(t, found && slices.Contains(s.services, service), "%s has no setting %s", service, name)
				require.Equal(t, s.secret, from == fromSecret, "%s of %s", name, service)
			}
			for name, s := range known {
				if s.required && slices.Contains(s.services, service) {
					require.Contains(t, told, name, service)
				}
			}
			require.NotContains(t, told, "MIGRATE_DATABASE_URL", "a server never is the role that owns the schema")
		}
	})
}

func TestAMigrationKnowsTheOwnerAndNoOtherSecretOfTheService(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		found := 0
		for _, w := range workloads(v) {
			name, isMigration := strings.CutSuffix(strings.TrimPrefix(w.name, "Job/"), "-migration")
			if !isMigration {
				continue
			}
			found++
			want := map[string]string{"MIGRATE_DATABASE_URL": fromSecret}
			if name == "audit" {
				want["AUDIT_LOG_KEY"] = fromSecret
			}
			require.Equal(t, want, environment(t, v, w.container(t)), name)
			require.Equal(t, []string{"migrate"}, w.container(t).Args)
			require.Equal(t, server(t, v, name).container(t).Image, w.container(t).Image, "the release that brings a schema brings its migration")
		}
		require.Equal(t, len(services()), found)
	})
}

const (
	fromSecret = "secret"
	fromConfig = "config"
)

// environment is what a container is told, and where each of it comes from. It fails for what does not exist.
func environment(t *testing.T, v built, c corev1.Container) map[string]string {
	t.Helper()
	told := map[string]string{}
	for _, from := range c.EnvFrom {
		require.Nil(t, from.SecretRef, "secrets are named one by one")
		found := false
		for _, config := range of[*corev1.ConfigMap](v) {
			if config.Name != from.ConfigMapRef.Name {
				continue
			}
			found = true
			for key := range config.Data {
				told[key] = fromConfig
			}
		}
		require.True(t, found, "there is no ConfigMap %s", from.ConfigMapRef.Name)
	}
	for _, variable := range c.Env {
		told[variable.Name] = fromConfig
		if variable.ValueFrom == nil {
			continue
		}
		ref := variable.ValueFrom.SecretKeyRef
		require.NotNil(t, ref, variable.Name)
		told[variable.Name] = fromSecret
		if ref.Optional == nil || !*ref.Optional {
			require.True(t, secretKeys(v)[ref.Name][ref.Key], "there is no key %s in the Secret %s", ref.Key, ref.Name)
		}
	}
	return told
}

// expected are the Secrets that an operator makes by hand where nothing else makes them, as README.md says.
func expected() map[string][]string {
	each := []string{"DATABASE_URL", "MIGRATE_DATABASE_URL", "REDIS_URL", "NATS_URL"}
	return map[string][]string{
		"internal-api-token":  {"INTERNAL_API_TOKEN"},
		"registry-secrets":    each,
		"credentials-secrets": each,
		"token-secrets":       append(slices.Clone(each), "KEY_ENCRYPTION_KEY"),
		"audit-secrets":       append(slices.Clone(each), "AUDIT_LOG_KEY"),
	}
}

// secretKeys are the keys of every Secret that a variant makes or has made for it.
func secretKeys(v built) map[string]map[string]bool {
	all := map[string]map[string]bool{}
	add := func(name string, keys ...string) {
		if all[name] == nil {
			all[name] = map[string]bool{}
		}
		for _, key := range keys {
			all[name][key] = true
		}
	}
	for _, secret := range of[*corev1.Secret](v) {
		for key := range secret.Data {
			add(secret.Name, key)
		}
	}
	for _, external := range of[*ExternalSecret](v) {
		for _, one := range external.Spec.Data {
			add(external.Spec.Target.Name, one.SecretKey)
		}
	}
	for _, certificate := range of[*Certificate](v) {
		add(certificate.Spec.SecretName, "tls.crt", "tls.key", "ca.crt")
	}
	if v.name == "production, with nothing" {
		for name, keys := range expected() {
			add(name, keys...)
		}
	}
	return all
}

func TestTheSecretsThatAreMadeAreThoseThatAreExpected(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		made := secretKeys(v)
		for name, keys := range expected() {
			require.Len(t, made[name], len(keys), name)
			for _, key := range keys {
				require.True(t, made[name][key], "%s of %s", key, name)
			}
		}
	})
}

func TestVolumesExist(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		configs := map[string]bool{}
		for _, config := range of[*corev1.ConfigMap](v) {
			configs[config.Name] = true
		}
		for _, w := range workloads(v) {
			for _, volume := range w.template.Spec.Volumes {
				if volume.ConfigMap != nil {
					require.True(t, configs[volume.ConfigMap.Name], w.name)
				}
				if volume.Secret != nil {
					require.Contains(t, secretKeys(v), volume.Secret.SecretName, w.name)
				}
			}
			if w.serves || w.name == "Job/bootstrap" {
				environment(t, v, w.container(t))
			}
		}
	})
}
