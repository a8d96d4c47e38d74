// Answers questions by node-llama-cpp, a line of JSON each: node answers.mjs FILE.gguf QUESTION…
import {getLlama, LlamaChatSession} from "node-llama-cpp";

const [path, ...questions] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: 1024, threads: 1});
const sequence = context.getSequence();
const session = new LlamaChatSession({contextSequence: sequence});
const begun = session.getChatHistory();
for (const question of questions) {
    session.setChatHistory(begun);
    const answer = await session.prompt(question, {temperature: 0, maxTokens: 48});
    console.log(JSON.stringify({question, answer}));
}
await model.dispose();
