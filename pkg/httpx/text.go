package httpx

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckText returns "" if value is fit to be stored and shown: valid Unicode,
// min to max characters (not bytes), without control characters, and not only
// spaces. Else it returns the reason, in words that follow the field's name.
func CheckText(value string, min, max int) string {
	switch length := utf8.RuneCountInString(value); {
	case !utf8.ValidString(value) || strings.ContainsRune(value, utf8.RuneError):
		return "must be valid Unicode text"
	case strings.ContainsFunc(value, unicode.IsControl):
		return "must not contain control characters"
	case length == 0 && min > 0:
		return "must not be empty"
	case length < min:
		return "must have at least " + strconv.Itoa(min) + " characters"
	case length > max:
		return "must have at most " + strconv.Itoa(max) + " characters"
	case length > 0 && strings.TrimSpace(value) == "":
		return "must not consist of spaces only"
	default:
		return ""
	}
}
