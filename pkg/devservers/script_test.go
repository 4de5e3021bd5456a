package devservers

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheInitScriptOfThePostgresImageProvisionsTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	given := filepath.Join(dir, "given.sql")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "psql"), []byte("#!/bin/bash\ncat >"+given+"\n"), 0o700))
	services := []string{"registry", "credentials", "token", "audit"}
	password := func(role string) string { return role + "'s" }

	cmd := exec.CommandContext(t.Context(), "bash", "../../deploy/k8s/components/in-cluster/postgres-init.sh")
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "POSTGRES_DB=idp"}
	for _, service := range services {
		for _, role := range []string{"owner", "app"} {
			name := service + "_" + role
			cmd.Env = append(cmd.Env, strings.ToUpper(name)+"_PASSWORD="+password(name))
		}
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	script, err := os.ReadFile(given)
	require.NoError(t, err)
	require.Equal(t, strings.Join(provisioning("idp", services, password), ";\n")+";\n", string(script))

	cmd = exec.CommandContext(t.Context(), "bash", "../../deploy/k8s/components/in-cluster/postgres-init.sh")
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "POSTGRES_DB=idp"}
	require.Error(t, cmd.Run(), "a role without a password is not made")
}
