// Package api carries the OpenAPI description of the registry's routes into the program, which serves it on its
// internal port. It must hold nothing else: the routes themselves are in internal/httpapi, and a test holds the two
// against each other.
package api

import _ "embed"

// Spec is openapi.yaml, an OpenAPI 3.0.3 document.
//
//go:embed openapi.yaml
var Spec []byte
