// Package api holds the OpenAPI document of the credentials service, which the
// service serves and its tests hold its routes and answers against.
package api

import _ "embed"

// Spec is openapi.yaml.
//
//go:embed openapi.yaml
var Spec []byte
