// Package postgres holds every SQL statement of the token service, on the schema
// token. It maps rows to the types of the packages that decide, and failures of
// the database to what a caller may know; it decides nothing itself.
package postgres
