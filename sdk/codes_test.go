package agentidp

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryCodeOfTheServicesIsAConstant(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("errors.go")
	require.NoError(t, err)
	constants := map[string]bool{}
	for _, found := range regexp.MustCompile(`Code = "([A-Za-z_]+)"`).FindAllSubmatch(source, -1) {
		constants[string(found[1])] = true
	}
	documents, err := filepath.Glob("../services/*/api/openapi.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, documents)
	for _, document := range documents {
		text, err := os.ReadFile(document)
		require.NoError(t, err)
		// An entry of the enum of codes, or the code of an example.
		codes := regexp.MustCompile(`(?m)^\s*(?:- |code: )([A-Z]{4,}_[A-Z_]+|FORBIDDEN|UNAUTHORIZED)$`).FindAllSubmatch(text, -1)
		require.NotEmpty(t, codes, document)
		for _, code := range codes {
			require.True(t, constants[string(code[1])], "%s: %s has no constant", document, code[1])
		}
	}
	// The token endpoint, introspection and revocation have codes of their own.
	text, err := os.ReadFile("../services/token/api/openapi.yaml")
	require.NoError(t, err)
	enums := regexp.MustCompile(`(?m)^ +error:\n +type: string\n +enum: \[(.+)\]$`).FindAllSubmatch(text, -1)
	require.Len(t, enums, 2, "one for each form of error")
	for _, enum := range enums {
		for code := range strings.SplitSeq(string(enum[1]), ", ") {
			require.True(t, constants[code], "%s has no constant", code)
		}
	}
}
