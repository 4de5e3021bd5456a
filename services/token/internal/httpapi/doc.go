// Package httpapi is the HTTP edge of the token service: it reads forms and client
// credentials as RFC 6749 writes them, hands them to package issue, and writes
// OAuth documents and errors. It must decide nothing about tokens, and no secret
// or token it reads may get into a log or an error.
package httpapi
