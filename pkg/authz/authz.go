// Package authz decides who may do what, by one Rego policy that is embedded and can be replaced by files. Nothing is
// decided in Go: handlers say what is asked for and about what, the policy answers. It must not load resources or know HTTP
// responses.
package authz

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
)

// The values of Input.Authentication.
const (
	// AuthenticationBearer is a verified access token: Scopes, Subject and Owner are its claims.
	AuthenticationBearer = "bearer"
	// AuthenticationClient is client authentication at the token endpoints (by secret or assertion): there are no scopes.
	AuthenticationClient = "client"
)

// Resource is what a request is about, as far as it is known when the policy is asked.
type Resource struct {
	// AgentID is the agent the request is about; for a revocation the agent that the token belongs to.
	AgentID      string
	Owner        string
	RegisteredBy string
	// Exists is false when the resource was looked for and there is none: it protects nothing then.
	Exists *bool
	// MayRequest are the system scopes that the agent may request as it is now; nil where that was not looked up.
	MayRequest []string
	// AllowedScopes are the scopes that a registration or change wants to give; nil if the request gives none.
	AllowedScopes []string
}

// Input is what the policy sees. Path is the request's path with its prefix /api/v1.
type Input struct {
	Method         string
	Path           string
	Scopes         []string
	Subject        string
	Owner          string
	Authentication string
	Resource       *Resource
}

// Decision is what the policy says. Reason is for the client: it names the scope or rule. Scope is the scope that lacks,
// where one does.
type Decision struct {
	Allow  bool
	Reason string
	Scope  string
}

// Config says where a policy is that replaces the embedded one.
type Config struct {
	PolicyDir string `env:"POLICY_DIR" desc:"Directory of .rego files that replace the embedded policy; reloaded on change and on SIGHUP."`
}

// Validate refuses a directory that holds no policy. Whether it is a good one shows when it is compiled.
func (c Config) Validate() error {
	if _, err := sources(c.PolicyDir); err != nil {
		return fmt.Errorf("POLICY_DIR: %w", err)
	}
	return nil
}

// Authorizer asks the policy. It is safe for concurrent use, also while a policy is reloaded.
type Authorizer struct {
	cfg    Config
	log    *slog.Logger
	policy atomic.Pointer[policy]
}

// New compiles the policy; one that cannot be read, does not compile or lacks allow or reason is an error.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Authorizer, error) {
	a := &Authorizer{cfg: cfg, log: log}
	if err := a.load(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// Decide asks the policy, or remembers what this policy has said to the same input: an evaluation costs more than all the
// rest of an authenticated read. An error means that it could not be evaluated, never that it denies.
func (a *Authorizer) Decide(ctx context.Context, in Input) (Decision, error) {
	return a.policy.Load().decide(ctx, in)
}

// load replaces the policy, or leaves it as it is and says why.
func (a *Authorizer) load(ctx context.Context) error {
	modules, err := sources(a.cfg.PolicyDir)
	if err != nil {
		return err
	}
	compiled, err := compile(ctx, modules)
	if err != nil {
		return err
	}
	a.policy.Store(compiled)
	return nil
}
