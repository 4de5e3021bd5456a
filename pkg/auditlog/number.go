package auditlog

import (
	"math"
	"strconv"
	"strings"
)

// safeDigits is how many significant decimal digits every double keeps.
const safeDigits = 15

// exactNumbers tells whether every number of a valid JSON text survives being read as a double and
// written again, as RFC 8785 §3.2.2.3 does it. 0.1 does; 9007199254740993 would change.
func exactNumbers(text []byte) bool {
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"':
			i = endOfString(text, i)
		case c == '-' || c >= '0' && c <= '9':
			end := i + 1
			for end < len(text) && isNumberByte(text[end]) {
				end++
			}
			if !exactNumber(string(text[i:end])) {
				return false
			}
			i = end
		default:
			i++
		}
	}
	return true
}

// endOfString is the place after the closing quote of the string that begins at start.
func endOfString(text []byte, start int) int {
	for i := start + 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

func isNumberByte(c byte) bool {
	return c >= '0' && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

func exactNumber(text string) bool {
	if len(text) <= safeDigits && !strings.ContainsAny(text, "eE") {
		return true
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(value, 0) {
		return false
	}
	digits, exponent, ok := decimal(text)
	gotDigits, gotExponent, _ := decimal(strconv.FormatFloat(value, 'e', -1, 64))
	return ok && digits == gotDigits && exponent == gotExponent
}

// decimal splits a number into the digits between its outermost non-zero ones and a power of ten, so
// that equal numbers are equal in both: value = 0.digits × 10^exponent, without the sign. ok is false
// for an exponent that no double comes near.
func decimal(text string) (digits string, exponent int, ok bool) {
	mantissa, power, _ := strings.Cut(strings.ToLower(strings.TrimLeft(text, "-")), "e")
	if power != "" {
		var err error
		if exponent, err = strconv.Atoi(power); err != nil {
			return "", 0, false
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	exponent += len(digits) - len(fraction)
	digits = strings.TrimRight(digits, "0")
	if digits == "" {
		return "", 0, true
	}
	return digits, exponent, true
}
