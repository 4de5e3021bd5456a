package authz

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

//go:embed policy/agentidp.rego
var embedded string

// Package is the Rego package that a policy is of. It must define allow (boolean) and reason (string), and may define scope.
const Package = "agentidp.authz"

// sources gives the policy's modules by file name: those of dir, or the embedded one if dir is empty.
//
// Only *.rego files directly in dir count, without tests. Kubernetes mounts a ConfigMap as links into a hidden directory
// beside them, so walking the tree would find every module twice.
func sources(dir string) (map[string]string, error) {
	if dir == "" {
		return map[string]string{"agentidp.rego": embedded}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read policy directory: %w", err)
	}
	modules := make(map[string]string)
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || filepath.Ext(name) != ".rego" || strings.HasSuffix(name, "_test.rego") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // reading the operator's own policy is the purpose
		if err != nil {
			return nil, fmt.Errorf("read policy: %w", err)
		}
		modules[name] = string(text)
	}
	if len(modules) == 0 {
		return nil, fmt.Errorf("no .rego file in policy directory %s", dir)
	}
	return modules, nil
}

// compile makes a policy of the modules and tries it once, so that a policy that cannot decide is found before it is used.
func compile(ctx context.Context, modules map[string]string) (*policy, error) {
	compiler, err := ast.CompileModules(modules)
	if err != nil {
		return nil, fmt.Errorf("compile policy: %w", err)
	}
	defines := func(rule string) bool {
		return len(compiler.GetRules(ast.MustParseRef("data."+Package+"."+rule))) > 0
	}
	var missing []error
	for _, rule := range []string{"allow", "reason"} {
		if !defines(rule) {
			missing = append(missing, fmt.Errorf("policy defines no rule %s in package %s", rule, Package))
		}
	}
	if err := errors.Join(missing...); err != nil {
		return nil, err
	}
	query := "allow := data." + Package + ".allow"
	for _, rule := range []string{"reason", "scope"} {
		if defines(rule) {
			// A rule that is undefined for an input must not hide what allow says.
			query += fmt.Sprintf("; %[1]s := [x | x := data.%[2]s.%[1]s]", rule, Package)
		}
	}
	prepared, err := rego.New(rego.Compiler(compiler), rego.Query(query), rego.StrictBuiltinErrors(true)).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("prepare policy: %w", err)
	}
	if _, err := evaluate(ctx, prepared, Input{Method: "GET", Path: "/api/v1/agents", Authentication: AuthenticationBearer}); err != nil {
		return nil, fmt.Errorf("try policy: %w", err)
	}
	return newPolicy(prepared, pure(compiler)), nil
}

// decide answers from memory where it can, else evaluates.
func (p *policy) decide(ctx context.Context, in Input) (Decision, error) {
	if p.decided == nil {
		return evaluate(ctx, p.query, in)
	}
	key := in.memoKey()
	if known, ok := p.decided.GetIfPresent(key); ok {
		return known, nil
	}
	decision, err := evaluate(ctx, p.query, in)
	if err == nil && len(key) <= memoMaxKey {
		p.decided.Set(key, decision)
	}
	return decision, err
}

// evaluate asks the query. An undefined allow denies.
func evaluate(ctx context.Context, query rego.PreparedEvalQuery, in Input) (Decision, error) {
	results, err := query.Eval(ctx, rego.EvalInput(in.document()))
	if err != nil {
		return Decision{}, fmt.Errorf("evaluate policy: %w", err)
	}
	if len(results) == 0 {
		return Decision{Reason: reasonUndefined}, nil
	}
	bindings := results[0].Bindings
	var d Decision
	var ok bool
	if d.Allow, ok = bindings["allow"].(bool); !ok {
		return Decision{}, fmt.Errorf("evaluate policy: allow is %T and not a boolean", bindings["allow"])
	}
	if d.Allow {
		return Decision{Allow: true}, nil
	}
	if d.Reason, err = text(bindings, "reason"); err != nil {
		return Decision{}, err
	}
	if d.Scope, err = text(bindings, "scope"); err != nil {
		return Decision{}, err
	}
	if d.Reason == "" {
		d.Reason = reasonUndefined
	}
	return d, nil
}

const reasonUndefined = "the policy does not allow this request"

// text reads a string that the query wrapped in an array, which is empty where the rule was undefined.
func text(bindings map[string]any, name string) (string, error) {
	values, _ := bindings[name].([]any)
	if len(values) == 0 {
		return "", nil
	}
	s, ok := values[0].(string)
	if !ok {
		return "", fmt.Errorf("evaluate policy: %s is %T and not a string", name, values[0])
	}
	return s, nil
}

// document is the policy's input.
func (in Input) document() map[string]any {
	doc := map[string]any{
		"method":         in.Method,
		"path":           in.Path,
		"scopes":         list(in.Scopes),
		"sub":            in.Subject,
		"owner":          in.Owner,
		"authentication": in.Authentication,
	}
	if r := in.Resource; r != nil {
		resource := make(map[string]any, 6)
		for name, value := range map[string]string{"agentId": r.AgentID, "owner": r.Owner, "registeredBy": r.RegisteredBy} {
			if value != "" {
				resource[name] = value
			}
		}
		if r.Exists != nil {
			resource["exists"] = *r.Exists
		}
		for name, scopes := range map[string][]string{"mayRequest": r.MayRequest, "allowedScopes": r.AllowedScopes} {
			if scopes != nil {
				resource[name] = list(scopes)
			}
		}
		doc["resource"] = resource
	}
	return doc
}

func list(values []string) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}
