package vault

import (
	"errors"
	"regexp"

	"github.com/sentryagent/agentidp/pkg/config"
)

// Config says which Vault keeps the secrets, and how to get in. Without Addr none does.
type Config struct {
	Addr      config.URL    `env:"VAULT_ADDR" desc:"URL of a Vault or OpenBao server that keeps the agents' secrets; empty = they are kept as bcrypt hashes"`
	Token     config.Secret `env:"VAULT_TOKEN" desc:"token for Vault, renewed as long as that is possible; this or VAULT_KUBERNETES_ROLE"`
	Mount     string        `env:"VAULT_MOUNT" default:"secret" desc:"where Vault's KV engine, version 2, is mounted"`
	Namespace string        `env:"VAULT_NAMESPACE" desc:"Vault namespace of everything, where there are any"`
	CACert    string        `env:"VAULT_CACERT" desc:"certificates of the authorities (PEM) that Vault's must come from; empty = those of the system"`

	KubernetesRole  string `env:"VAULT_KUBERNETES_ROLE" desc:"role to log in to Vault as, with the pod's service account"`
	KubernetesMount string `env:"VAULT_KUBERNETES_MOUNT" default:"kubernetes" desc:"where Vault's Kubernetes authentication is mounted"`
	KubernetesToken string `env:"VAULT_KUBERNETES_TOKEN_FILE" default:"/var/run/secrets/kubernetes.io/serviceaccount/token" desc:"file with the service account's token; read at each login"`
}

// mountForm is a path that needs no escaping and goes nowhere else.
var mountForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)

// Enabled tells whether there is a Vault.
func (c Config) Enabled() bool { return c.Addr != "" }

// Validate wants exactly one way in where there is a Vault, and none where there is not: a setting that was meant for one
// must not go unnoticed, as secrets would be kept elsewhere.
func (c Config) Validate() error {
	var errs []error
	refuse := func(wrong bool, why string) {
		if wrong {
			errs = append(errs, errors.New(why))
		}
	}
	if !c.Enabled() {
		refuse(c.Token != "", "VAULT_TOKEN: VAULT_ADDR must be set too")
		refuse(c.KubernetesRole != "", "VAULT_KUBERNETES_ROLE: VAULT_ADDR must be set too")
		return errors.Join(errs...)
	}
	refuse(c.Token == "" && c.KubernetesRole == "", "VAULT_TOKEN: this or VAULT_KUBERNETES_ROLE is required with VAULT_ADDR")
	refuse(c.Token != "" && c.KubernetesRole != "", "VAULT_TOKEN: must not be set together with VAULT_KUBERNETES_ROLE")
	refuse(!mountForm.MatchString(c.Mount), "VAULT_MOUNT: must be a path such as secret or teams/agentidp, without slashes around it")
	refuse(!mountForm.MatchString(c.KubernetesMount), "VAULT_KUBERNETES_MOUNT: must be a path such as kubernetes, without slashes around it")
	return errors.Join(errs...)
}
