// Command sbom writes what a Go program is made of, as the program itself tells (its build information), in the form of
// CycloneDX 1.6: `sbom -version v1.2.3 program`. The same program gives the same bytes. It must not guess: what does not stand in
// the program, such as licenses, is not in it.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	version := flags.String("version", "", "of the program and of the modules that are built with it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *version == "" || flags.NArg() != 1 {
		return errors.New("usage: sbom -version VERSION PROGRAM")
	}
	bom, err := describe(flags.Arg(0), *version)
	if err != nil {
		return err
	}
	return cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}

// describe reads the build information of a program.
func describe(path, version string) (*cdx.BOM, error) {
	content, err := os.ReadFile(path) //nolint:gosec // whoever runs it says which
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	sum := sha256.Sum256(content)
	program := module(info.Main.Path, version)
	program.Type, program.Name = cdx.ComponentTypeApplication, filepath.Base(path)
	program.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
	program.Properties = settings(info)

	components := []cdx.Component{module("std", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, dep := range info.Deps {
		components = append(components, dependency(dep, version))
	}
	needs := make([]string, len(components))
	for i, component := range components {
		needs[i] = component.BOMRef
	}
	bom := cdx.NewBOM()
	// Of what is in it, so that the same program has the same.
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, sum[:]).URN()
	bom.Metadata = &cdx.Metadata{Component: &program}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: program.BOMRef, Dependencies: &needs}}
	return bom, nil
}

// dependency is a module that was linked. One of this repository has the program's version.
func dependency(dep *debug.Module, version string) cdx.Component {
	if dep.Replace != nil && dep.Replace.Version == "" {
		return module(dep.Path, version)
	}
	if dep.Replace != nil {
		dep = dep.Replace
	}
	component := module(dep.Path, dep.Version)
	// go.sum's h1 is the SHA-256 of the list of a module's files and their SHA-256.
	if sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(dep.Sum, "h1:")); err == nil && len(sum) == sha256.Size {
		component.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}}
	}
	return component
}

func module(path, version string) cdx.Component {
	purl := "pkg:golang/" + path + "@" + version
	return cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: purl, Scope: cdx.ScopeRequired}
}

// settings are how the program was built.
func settings(info *buildinfo.BuildInfo) *[]cdx.Property {
	var list []cdx.Property
	for _, setting := range info.Settings {
		switch setting.Key {
		case "GOOS", "GOARCH", "CGO_ENABLED", "-tags", "-trimpath":
			list = append(list, cdx.Property{Name: "go:build:" + strings.TrimPrefix(setting.Key, "-"), Value: setting.Value})
		}
	}
	return &list
}
