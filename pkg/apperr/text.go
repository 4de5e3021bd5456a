package apperr

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckText returns "" if value is fit to be stored and shown: valid Unicode,
// shortest to longest characters (not bytes), without control characters, and not only
// spaces. Else it returns the Reason of a FieldError.
func CheckText(value string, shortest, longest int) string {
	switch length := utf8.RuneCountInString(value); {
	case !utf8.ValidString(value) || strings.ContainsRune(value, utf8.RuneError):
		return "must be valid Unicode text"
	case strings.ContainsFunc(value, unicode.IsControl):
		return "must not contain control characters"
	case length == 0 && shortest > 0:
		return "must not be empty"
	case length < shortest:
		return "must have at least " + strconv.Itoa(shortest) + " characters"
	case length > longest:
		return "must have at most " + strconv.Itoa(longest) + " characters"
	case length > 0 && strings.TrimSpace(value) == "":
		return "must not consist of spaces only"
	default:
		return ""
	}
}
