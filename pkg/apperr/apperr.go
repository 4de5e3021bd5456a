// Package apperr is the one typed error that travels from the deepest layer of a service to its client.
package apperr
