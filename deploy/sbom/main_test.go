package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/stretchr/testify/require"
)

func TestAProgramTellsWhatItIsMadeOf(t *testing.T) {
	t.Parallel()
	program, err := os.Executable() // this test's own
	require.NoError(t, err)
	var out, again bytes.Buffer
	require.NoError(t, run([]string{"-version", "v1.2.3", program}, &out))
	require.NoError(t, run([]string{"-version", "v1.2.3", program}, &again))
	require.Equal(t, out.String(), again.String())

	var bom cdx.BOM
	require.NoError(t, cdx.NewBOMDecoder(&out, cdx.BOMFileFormatJSON).Decode(&bom))
	require.Equal(t, cdx.SpecVersion1_6, bom.SpecVersion)
	require.Equal(t, filepath.Base(program), bom.Metadata.Component.Name)
	require.Equal(t, "v1.2.3", bom.Metadata.Component.Version)
	found := map[string]cdx.Component{}
	for _, component := range *bom.Components {
		require.Equal(t, "pkg:golang/"+component.Name+"@"+component.Version, component.PackageURL)
		found[component.Name] = component
	}
	require.Contains(t, found, "std")
	library := found["github.com/CycloneDX/cyclonedx-go"]
	require.True(t, strings.HasPrefix(library.Version, "v"), library.Version)
	require.Len(t, (*library.Hashes)[0].Value, 64)
	require.Len(t, *(*bom.Dependencies)[0].Dependencies, len(*bom.Components))
}

func TestWhatIsNoProgramIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(path, []byte("no program"), 0o600))
	require.ErrorContains(t, run([]string{"-version", "v1", path}, &bytes.Buffer{}), path)
	require.Error(t, run([]string{"-version", "v1", path + "-not-there"}, &bytes.Buffer{}))
	require.ErrorContains(t, run([]string{path}, &bytes.Buffer{}), "usage")
}
