package httpapi_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzForm holds the form parser against net/url: whatever body is let in was read
// the same way, and nothing but a 200 or a proper refusal comes out.
func FuzzForm(f *testing.F) {
	for _, seed := range []string{
		goodForm, goodForm + "&scope=a+b", "a=b&a=c", goodForm + "&scope=&scope=a&scope=", "%zz", "&&=&", "grant_type", goodForm + "&x=%00", goodForm + ";x=1",
		goodForm + "&scope=%ff", strings.Repeat("&", 200), goodForm + "&=&", "client_id=%2B&client_secret=+", goodForm + "&resource=a&resource=&resource=b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		b := setup(t)
		got := b.post(t, tokenPath, body)
		if got.Code != http.StatusOK {
			require.Contains(t, []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge}, got.Code)
			require.Empty(t, b.issued)
			return
		}
		values, err := url.ParseQuery(strings.ReplaceAll(body, ";", "%3B"))
		require.NoError(t, err)
		for name, all := range values {
			require.True(t, utf8.ValidString(name))
			given := slices.DeleteFunc(slices.Clone(all), func(value string) bool { return value == "" })
			if name != "resource" {
				require.LessOrEqual(t, len(given), 1, "%q is repeated", name)
			}
			values[name] = given
		}
		require.ElementsMatch(t, values["resource"], b.issued[0].Resources)
		require.Equal(t, values.Get("client_id"), b.issued[0].Credentials.ClientID)
		require.Equal(t, values.Get("client_secret"), b.issued[0].Credentials.Secret.Reveal())
		require.Equal(t, values.Get("scope"), b.issued[0].Scope)
	})
}

// FuzzBasic holds what is read from HTTP Basic against what a client would encode.
func FuzzBasic(f *testing.F) {
	for _, seed := range []string{basic("a", "b"), "Basic", "Basic ", "basic YTpi", "Basic YTpi=", "Bearer x", "Basic\tYTpi", basic("%", "%")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		header = strings.Trim(header, " \t") // as a server does (RFC 9110 §5.5)
		if strings.ContainsAny(header, "\r\n\x00") || header == "" {
			return // cannot be a header, or says nothing
		}
		b := setup(t)
		got := b.post(t, tokenPath, grantOnly, "Authorization", header)
		if got.Code != http.StatusOK {
			require.Equal(t, http.StatusUnauthorized, got.Code, got.Body)
			require.Equal(t, "invalid_client", got.field(t, "error"))
			require.NotEmpty(t, got.Header().Get("WWW-Authenticate"))
			return
		}
		given := b.issued[0].Credentials
		scheme, encoded, _ := strings.Cut(header, " ")
		require.True(t, strings.EqualFold(scheme, "basic"))
		raw, err := base64.StdEncoding.DecodeString(strings.Trim(encoded, " "))
		require.NoError(t, err)
		rawID, rawSecret, _ := strings.Cut(string(raw), ":")
		id, err := url.QueryUnescape(rawID)
		require.NoError(t, err)
		secret, err := url.QueryUnescape(rawSecret)
		require.NoError(t, err)
		require.Equal(t, id, given.ClientID)
		require.Equal(t, secret, given.Secret.Reveal())
		require.NotEmpty(t, id)
		require.NotEmpty(t, secret)
	})
}
