// Package api holds the description of the token service's HTTP interface.
package api

import _ "embed"

// Spec is the OpenAPI 3.0.3 document, served on the internal port.
//
//go:embed openapi.yaml
var Spec []byte
