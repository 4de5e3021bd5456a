package authn_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authn"
)

func TestBearerToken(t *testing.T) {
	t.Parallel()
	const missing = `Bearer realm="agentidp"`
	for name, row := range map[string]struct {
		headers   []string
		token     string
		challenge string // exactly, where it has no error, else its beginning
	}{
		"a token":                            {headers: []string{"Bearer abc.def-_~+/=="}, token: "abc.def-_~+/=="},
		"the scheme in lower case":           {headers: []string{"bearer abc"}, token: "abc"},
		"more than one space":                {headers: []string{"Bearer   abc"}, token: "abc"},
		"a token of 16 KiB":                  {headers: []string{"Bearer " + strings.Repeat("a", 16384)}, token: strings.Repeat("a", 16384)},
		"no header":                          {challenge: missing},
		"an empty header":                    {headers: []string{""}, challenge: missing},
		"another scheme":                     {headers: []string{"Basic YTpi"}, challenge: missing},
		"a scheme that begins like Bearer":   {headers: []string{"BearerX abc"}, challenge: missing},
		"a tab for the space":                {headers: []string{"Bearer\tabc"}, challenge: missing},
		"the scheme alone":                   {headers: []string{"Bearer"}, challenge: missing + `, error="invalid_token"`},
		"the scheme and a space":             {headers: []string{"Bearer "}, challenge: missing + `, error="invalid_token"`},
		"two headers":                        {headers: []string{"Bearer a", "Bearer a"}, challenge: missing + `, error="invalid_token"`},
		"two tokens":                         {headers: []string{"Bearer a b"}, challenge: missing + `, error="invalid_token"`},
		"two tokens with a comma":            {headers: []string{"Bearer a,b"}, challenge: missing + `, error="invalid_token"`},
		"padding alone":                      {headers: []string{"Bearer =="}, challenge: missing + `, error="invalid_token"`},
		"padding inside":                     {headers: []string{"Bearer a=b"}, challenge: missing + `, error="invalid_token"`},
		"quotes":                             {headers: []string{`Bearer "a"`}, challenge: missing + `, error="invalid_token"`},
		"a NUL byte":                         {headers: []string{"Bearer a\x00"}, challenge: missing + `, error="invalid_token"`},
		"invalid UTF-8":                      {headers: []string{"Bearer \xff\xfe"}, challenge: missing + `, error="invalid_token"`},
		"a token of one byte more than 16 K": {headers: []string{"Bearer " + strings.Repeat("a", 16385)}, challenge: missing + `, error="invalid_token"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token, err := authn.BearerToken(http.Header{"Authorization": row.headers})
			require.Equal(t, row.token, token)
			if row.challenge == "" {
				require.NoError(t, err)
				return
			}
			e := apperr.From(err)
			require.Equal(t, apperr.Unauthorized, e.Code)
			if row.challenge == missing {
				require.Equal(t, missing, e.Challenge)
			} else {
				require.True(t, strings.HasPrefix(e.Challenge, row.challenge), e.Challenge)
			}
		})
	}
}

func FuzzBearerToken(f *testing.F) {
	for _, seed := range []string{"Bearer abc", "bearer  a==", "Basic x", "Bearer", "", "Bearer \x00", "Bearer a b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		token, err := authn.BearerToken(http.Header{"Authorization": {header}})
		if err != nil {
			e := apperr.From(err)
			require.Equal(t, apperr.Unauthorized, e.Code)
			require.True(t, strings.HasPrefix(e.Challenge, `Bearer realm="agentidp"`))
			require.Empty(t, token)
			return
		}
		require.NotEmpty(t, token)
		require.LessOrEqual(t, len(token), authn.MaxTokenBytes)
		require.True(t, strings.HasSuffix(header, token))
		require.NotContains(t, token, " ")
		require.Equal(t, strings.ToValidUTF8(token, ""), token)
	})
}
