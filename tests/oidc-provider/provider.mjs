// A real OpenID provider on a free port of this machine, which gives a service access tokens that are JWTs.
//
// The first line on standard output is its address. A client `robot` (secret `secret`) gets a token by
// client_credentials for a resource `urn:test:ALGORITHM:AUDIENCE`, signed by that algorithm and meant for that audience;
// for no resource the token is opaque.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const key = (kid, type, options) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }),
  kid,
  use: 'sig',
});

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: 'robot',
        client_secret: 'secret',
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      },
    ],
    jwks: {
      keys: [
        key('rsa', 'rsa', { modulusLength: 2048 }),
        key('ec', 'ec', { namedCurve: 'P-256' }),
        key('ed', 'ed25519'),
      ],
    },
    extraTokenClaims: () => ({ tenant: 'acme', role: 'viewer', email: 'robot@acme.test' }),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (_context, resource) => {
          const [, , alg, audience] = resource.split(':');
          return { scope: 'api', audience, accessTokenFormat: 'jwt', accessTokenTTL: 300, jwt: { sign: { alg } } };
        },
      },
    },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});

// Ends with the test that started it.
process.stdin.on('end', () => process.exit(0)).resume();
